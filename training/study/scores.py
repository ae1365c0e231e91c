# SPDX-License-Identifier: Apache-2.0
"""Every score that a study can measure: the node's, the post-hoc ones, the point-wise flow's.

Each takes the network's input and output for one frame, so all scores share one forward pass,
except those that need passes of their own (ODIN, ReAct, MC dropout, smoothed scores).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from anomaly_seg_ros import scores as score_functions
from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.contract import NetworkOutput
from training.flow.fit_pointwise import FitOptions, fit_pointwise, pixels_of
from training.flow.pointwise_flow import (
    PointwiseFlow,
    flow_density,
    flow_hybrid,
    load_pointwise_flow,
)
from training.networks import DROPOUT
from training.posthoc import (
    POSTHOC,
    OutputScore,
    TrainingPixels,
    activation_percentile,
    build_posthoc,
    classifier_origin,
    sample_pixels,
)
from training.validation import Viewer

_FLOW = {"flow_density": flow_density, "flow_hybrid": flow_hybrid}
STUDY_SCORES: tuple[str, ...] = (*score_functions.SCORES, *POSTHOC, *_FLOW)

# (input (1, 3, H, W), the network's outputs) -> (1, h, w) float32, higher = more anomalous.
FrameScore = Callable[[Tensor, NetworkOutput], Tensor]


@dataclass(frozen=True)
class ScoreOptions:
    """Settings of the scores that the node does not have.

    Attributes:
        dropout_passes: Forward passes of MC dropout, T.
        react_percentile: ReAct clips at this percentile of the training frames' pre-logits.
        flow_pixels: Pixels per training frame to fit the point-wise flow to.
        flow_steps: Optimizer steps of that fit.
        fit_pixels: Pixels of all training frames together to fit ``gdm``, ``gmm``, ``neco``,
            ``openmax`` and ``vim`` to.
        gdm_variance, gmm_variance, neco_variance: Share of the pre-logits' variance that the
            principal components hold.
        gmm_shrinkage: Weight of the classes' common covariance in that of each, in pixels.
        openmax_tail: Distances of each class to fit a Weibull distribution to.
        openmax_top: How many of a pixel's largest logits are recalibrated.
        vim_share: Share of the pre-logits' principal directions that are not residual.
    """

    dropout_passes: int = 4
    react_percentile: float = 99.0
    flow_pixels: int = 400
    flow_steps: int = 500
    fit_pixels: int = 50_000
    gdm_variance: float = 1.0
    gmm_variance: float = 0.99
    gmm_shrinkage: float = 32.0
    neco_variance: float = 0.9
    openmax_tail: int = 20
    openmax_top: int = 10
    vim_share: float = 0.5


def is_offered(name: str, network: nn.Module, metadata: ModelMetadata) -> bool:
    """Tells whether a model has what a score of :data:`STUDY_SCORES` needs."""
    has_statistics = metadata.statistics is not None
    has_head = network.outlier_head is not None
    if name in score_functions.SCORES:
        return score_functions.missing_for(name, has_statistics, has_head) is None
    if name == "mc_dropout":
        return any(isinstance(m, DROPOUT) and m.p > 0 for m in network.modules())
    return {"sml_smoothed": has_statistics, "flow_hybrid": has_head}.get(name, True)


class ScoreBuilder:
    """Builds the scores of one network; what is fitted to training frames is fitted once.

    Args:
        network: The network, in eval mode; not changed.
        metadata: Its metadata.
        viewer: Runs the network on single frames.
        frames: Returns (H, W, 3) uint8 RGB training frames; called only if a score needs them.
        options: See :class:`ScoreOptions`.
        flow_file: Point-wise flow that was trained along with the network; None fits one.
    """

    def __init__(
        self,
        network: nn.Module,
        metadata: ModelMetadata,
        viewer: Viewer,
        frames: Callable[[], Sequence[np.ndarray]],
        options: ScoreOptions,
        flow_file: Path | None = None,
    ) -> None:
        self.network = network
        self.metadata = metadata
        self.viewer = viewer
        self.frames = frames
        self.options = options
        self.flow_file = flow_file

    def __call__(self, name: str) -> FrameScore:
        """Builds one score for which :func:`is_offered` is true."""
        if name in _FLOW:
            flow = self._flow
            return lambda inputs, output: _FLOW[name](output, flow)
        if name in POSTHOC:
            posthoc = build_posthoc(name, **self._arguments(name))
            if isinstance(posthoc, OutputScore):
                return lambda inputs, output: posthoc.of(output)
            return lambda inputs, output: posthoc(self.network, inputs)
        statistics = self.metadata.statistics
        return lambda inputs, output: score_functions.compute(name, output, statistics)

    def _arguments(self, name: str) -> dict[str, object]:
        """Returns the constructor arguments of a post-hoc score."""
        if name == "odin":
            return {"std": self.metadata.std}
        if name == "sml_smoothed":
            return {"statistics": self.metadata.statistics}
        if name == "mc_dropout":
            return {"passes": self.options.dropout_passes}
        if name == "react":
            percentile = self.options.react_percentile
            return {"threshold": activation_percentile(self.network, self._inputs(), percentile)}
        options = self.options
        fitted: dict[str, dict[str, object]] = {
            "gdm": {"variance": options.gdm_variance},
            "gmm": {"variance": options.gmm_variance, "shrinkage": options.gmm_shrinkage},
            "neco": {"variance": options.neco_variance},
            "openmax": {"tail": options.openmax_tail, "top": options.openmax_top},
            "vim": {"share": options.vim_share},
        }
        if name not in fitted:
            return {}
        if name == "vim":
            fitted[name]["origin"] = classifier_origin(self.network)
        return {"pixels": self._pixels, **fitted[name]}

    def _inputs(self) -> Iterator[Tensor]:
        """The network's inputs (1, 3, H, W) for the training frames, one by one."""
        return (self.viewer.to_input(frame) for frame in self.frames())

    @functools.cached_property
    def _pixels(self) -> TrainingPixels:
        """Pixels of the training frames, for all scores that are fitted to some."""
        return sample_pixels(self.network, self._inputs(), self.options.fit_pixels)

    @functools.cached_property
    def _flow(self) -> PointwiseFlow:
        """Point-wise flow trained along, or fitted to the pre-logits of the training frames."""
        if self.flow_file is not None:
            flow = load_pointwise_flow(self.flow_file).to(self.viewer.device)
            return flow.requires_grad_(False)
        pixels = pixels_of(self.network, self.frames(), self.viewer, self.options.flow_pixels)
        torch.manual_seed(0)
        flow = PointwiseFlow(pixels.shape[1]).to(self.viewer.device)
        fit_pointwise(flow, pixels, options=FitOptions(steps=self.options.flow_steps))
        return flow.eval().requires_grad_(False)

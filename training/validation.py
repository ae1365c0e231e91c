# SPDX-License-Identifier: Apache-2.0
"""Validation on held-out frames: closed-set mIoU, AP and FPR95."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_seg_ros import scores as score_functions
from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.inference.preprocessing import resized, size_for
from anomaly_seg_ros.metrics.confusion import ConfusionMatrix
from anomaly_seg_ros.metrics.pixel_scores import PixelScores
from anomaly_seg_ros.models.input_scaling import InputScaling
from training.data.corpora import Corpus, TrainingData
from training.data.held_out import MaskedFrame, NaturalFrames, mixed_held_out
from training.engine.entry import Run


@dataclass(frozen=True)
class Viewer:
    """Runs a network on single images.

    Attributes:
        scaling: Input scaling of the network.
        device: Device of the network.
        size: (height, width) to resize images to.
        num_classes: Number of classes, K; further logits are dropped.
        half: Use bf16 autocast, as in training.
        multiple: The network's ``size_multiple``, to process small frames at a smaller size as
            the Segmenter does (see ``preprocessing.size_for``); None resizes all frames to
            ``size``.
    """

    scaling: InputScaling
    device: torch.device
    size: tuple[int, int]
    num_classes: int
    half: bool = False
    multiple: int | None = None

    @classmethod
    def configured(cls, run: Run, metadata: ModelMetadata) -> Viewer:
        """A viewer for the validation of a run, in the training's precision."""
        size = tuple(run.config["validation"]["size"])
        half = run.config["precision"] != "fp32"
        return cls(metadata.input_scaling, run.device, size, len(metadata.classes), half)

    def to_input(self, image: np.ndarray) -> Tensor:
        """Converts (H, W, 3) uint8 RGB to the network's input, (1, 3, *size) float32."""
        size = self.size
        if self.multiple is not None:
            size = size_for(image.shape[0], size, self.multiple)
        image = np.ascontiguousarray(resized(image, size))
        tensor = torch.from_numpy(image).to(self.device)
        return self.scaling(tensor.permute(2, 0, 1)[None])

    @torch.inference_mode()
    def output(self, network: nn.Module, image: np.ndarray) -> NetworkOutput:
        """Returns the network's output, with float32 logits of the K classes."""
        autocast = torch.autocast(self.device.type, torch.bfloat16)
        with autocast if self.half else contextlib.nullcontext():
            output = network(self.to_input(image))
        return output._replace(logits=output.logits[:, : self.num_classes].float())


def upsampled_outputs(maps: Tensor, size: tuple[int, int], network: nn.Module) -> Tensor:
    """Upsamples maps from a network's output grid, bilinearly as the Segmenter does.

    Args:
        maps: (N, C, h, w).
        size: (height, width).
        network: The network; its ``align_corners`` applies.

    Returns:
        (N, C, *size).
    """
    corners = network.align_corners
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=corners)


def closed_set_matrix(network: nn.Module, corpus: Corpus, viewer: Viewer) -> ConfusionMatrix:
    """Counts predictions against labels, at the labels' size."""
    matrix = ConfusionMatrix(viewer.num_classes)
    for image, label in corpus:
        logits = viewer.output(network, image).logits
        logits = upsampled_outputs(logits, label.shape, network)
        matrix.update(label, logits.argmax(1)[0].to(torch.uint8).cpu().numpy())
    return matrix


def validation_sizes(config: Mapping[str, Any]) -> dict[str, Sequence[int]]:
    """Network inputs of the validation, by the key that states them."""
    section = "validation" if config["data"].get("validation") else "train"
    corpora = config["data"].get(section) or {}
    own = {f"data.{section}.{name}.size": c.get("size", []) for name, c in corpora.items()}
    return {"validation.size": config["validation"]["size"], **own}


def every_nth(corpora: Iterable[Corpus], config: Mapping[str, Any]) -> list[Corpus]:
    """The frames that are validated on while training.

    Raises:
        ParameterError: ``validation.closed_set_every`` is below 1.
    """
    step = config["validation"]["closed_set_every"]
    if step < 1:
        raise ParameterError(f"validation.closed_set_every: expected 1 or more, got {step}")
    return [corpus.every(step) for corpus in corpora]


def validation_matrix(
    network: nn.Module, corpora: Iterable[Corpus], viewer: Viewer
) -> ConfusionMatrix:
    """Counts predictions against the labels of several corpora, each at its own input size."""
    matrix = ConfusionMatrix(viewer.num_classes)
    for corpus in corpora:
        own = replace(viewer, size=corpus.size) if corpus.size else viewer
        matrix.merge(closed_set_matrix(network, corpus, own))
    return matrix


def anomaly_figures(
    network: nn.Module,
    frames: Iterable[MaskedFrame],
    viewer: Viewer,
    scores: Sequence[str],
    prefix: str,
) -> dict[str, float]:
    """Computes AP and FPR95 of each score, pooled over frames with known outliers.

    Args:
        network: The network, in eval mode.
        frames: Frames with outlier masks.
        viewer: Runs the network on the frames.
        scores: Names of scores that need no class statistics.
        prefix: Prefix of the figures' names.

    Returns:
        ``{prefix}_{score}_ap`` and ``{prefix}_{score}_fpr95`` for each score.
    """
    pooled = {name: PixelScores() for name in scores}
    for frame in frames:
        output = viewer.output(network, frame.image)
        for name, pixels in pooled.items():
            raw = score_functions.compute(name, output)
            raw = upsampled_outputs(raw[None], frame.mask.shape, network)[0, 0]
            pixels.update(raw.cpu().numpy(), frame.mask, frame.name)
    figures = {}
    for name, pixels in pooled.items():
        metrics = pixels.compute()
        figures[f"{prefix}_{name}_ap"] = metrics.AP
        figures[f"{prefix}_{name}_fpr95"] = metrics.FPR95
    return figures


class OpenSetValidation:
    """Validates a fine-tuning on frames and objects that it does not train on.

    Figures: ``val_miou``; ``mixed_SCORE_ap`` and ``mixed_SCORE_fpr95`` on pasted objects;
    ``natural_SCORE_...`` on natural unknown objects.

    Args:
        run: The run; its configuration has a section "validation".
        metadata: Metadata of the model.
        data: Frames and objects of the run.
    """

    def __init__(self, run: Run, metadata: ModelMetadata, data: TrainingData) -> None:
        options = run.config["validation"]
        self.scores: list[str] = options["scores"]
        self.closed_set = every_nth(data.validation, run.config)
        self.mixed = mixed_held_out(run.config["mixing"], data, options["mixed_frames"])
        self.natural = NaturalFrames(data.unknown if options["natural"] else [])
        self._viewer = Viewer.configured(run, metadata)

    def __call__(self, network: nn.Module) -> dict[str, float]:
        """Computes the figures of a network in eval mode."""
        matrix = validation_matrix(network, self.closed_set, self._viewer)
        figures = {"val_miou": matrix.mean_iou()}
        for prefix, frames in (("mixed", self.mixed), ("natural", self.natural)):
            if frames:
                figures |= anomaly_figures(network, frames, self._viewer, self.scores, prefix)
        return figures

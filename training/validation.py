"""Figures on held-out frames while a training runs: closed-set mIoU, AP and FPR95."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_seg_ros import scores as score_functions
from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.inference.preprocessing import resized, size_for
from anomaly_seg_ros.metrics.confusion import ConfusionMatrix
from anomaly_seg_ros.metrics.pixel_scores import PixelScores
from anomaly_seg_ros.models.input_scaling import InputScaling
from training.data.corpora import Corpus
from training.data.held_out import MaskedFrame


@dataclass(frozen=True)
class Viewer:
    """Runs a network on single images.

    Attributes:
        scaling: Of the images.
        device: Of the network.
        size: (height, width) that images are resized to.
        num_classes: K; further logits are dropped.
        half: bf16 autocast, as in training.
        multiple: The network's ``size_multiple``, to look at small frames at a smaller size as the
            Segmenter does (see ``preprocessing.size_for``); None looks at every
            frame at ``size``.
    """

    scaling: InputScaling
    device: torch.device
    size: tuple[int, int]
    num_classes: int
    half: bool = False
    multiple: int | None = None

    def to_input(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 RGB to the network's input (1, 3, *size), float32."""
        size = self.size
        if self.multiple is not None:
            size = size_for(image.shape[0], size, self.multiple)
        image = np.ascontiguousarray(resized(image, size))
        tensor = torch.from_numpy(image).to(self.device)
        return self.scaling(tensor.permute(2, 0, 1)[None])

    @torch.inference_mode()
    def output(self, network: nn.Module, image: np.ndarray) -> NetworkOutput:
        """The network's outputs with float32 logits of the K classes."""
        autocast = torch.autocast(self.device.type, torch.bfloat16)
        with autocast if self.half else contextlib.nullcontext():
            output = network(self.to_input(image))
        return output._replace(logits=output.logits[:, : self.num_classes].float())


def upsampled_outputs(maps: Tensor, size: tuple[int, int], network: nn.Module) -> Tensor:
    """Upsamples maps on a network's output grid as the Segmenter does (bilinear).

    Args:
        maps: (N, C, h, w).
        size: (height, width).
        network: Its ``align_corners`` counts.

    Returns:
        (N, C, *size).
    """
    corners = network.align_corners
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=corners)


def closed_set_matrix(network: nn.Module, corpus: Corpus, viewer: Viewer) -> ConfusionMatrix:
    """Predicts every image and counts at the labels' size."""
    matrix = ConfusionMatrix(viewer.num_classes)
    for image, label in zip(corpus.images, corpus.labels, strict=True):
        logits = viewer.output(network, image).logits
        logits = upsampled_outputs(logits, label.shape, network)
        matrix.update(label, logits.argmax(1)[0].to(torch.uint8).cpu().numpy())
    return matrix


def anomaly_figures(
    network: nn.Module,
    frames: Iterable[MaskedFrame],
    viewer: Viewer,
    scores: Sequence[str],
    prefix: str,
) -> dict[str, float]:
    """AP and FPR95 of each score, pooled over frames with known outliers.

    Args:
        network: In eval mode.
        frames: With masks.
        viewer: How they are looked at.
        scores: Names of scores that need no class statistics.
        prefix: Of the figures' names.

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

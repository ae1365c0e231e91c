# SPDX-License-Identifier: Apache-2.0
"""From the network's outputs for one frame to the requested maps."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_seg_ros import scores as score_functions
from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.inference.prediction import OutputRequest, Prediction, UnknownRule
from anomaly_seg_ros.inference.preprocessing import Size
from anomaly_seg_ros.inference.tiling import row_bands
from anomaly_seg_ros.inference.upsampling import upsampled, upsampled_argmax


@dataclass(frozen=True)
class Geometry:
    """The sizes that a frame passes through, (height, width) in pixels.

    Attributes:
        frame: The frame as it came; the maps have this size.
        seen: What the network saw.
        grid: The size to which outputs are upsampled: the frame's, or ``seen`` where the frame
            kept its pixels and was padded. Then the maps are cropped, so nothing is resampled.
        band: Rows of logits to score at once, to bound the memory; None takes all.
    """

    frame: Size
    seen: Size
    grid: Size
    band: int | None


@dataclass
class Maps:
    """Maps of one frame on the device; fields are those of :class:`Prediction`."""

    labels: Tensor | None = None
    confidence: Tensor | None = None
    scores: dict[str, Tensor] = field(default_factory=dict)
    unit_score: Tensor | None = None
    mask: Tensor | None = None
    open_set_labels: Tensor | None = None

    def download(self) -> Prediction:
        """Copies the maps to arrays; from a GPU they are complete once its stream is done."""
        return Prediction(
            labels=_to_host(self.labels),
            confidence=_to_host(self.confidence),
            scores={name: _array(score) for name, score in self.scores.items()},
            unit_score=_to_host(self.unit_score),
            mask=_to_host(self.mask),
            open_set_labels=_to_host(self.open_set_labels),
        )


class Postprocessor:
    """Computes maps on the device that holds the outputs.

    Args:
        metadata: The network's metadata.
        device: The device of the outputs.
        align_corners: How the network's last upsampling aligns its grid.
    """

    def __init__(self, metadata: ModelMetadata, device: torch.device, align_corners: bool) -> None:
        self._metadata = metadata
        self._align_corners = align_corners
        self._statistics = metadata.statistics
        if self._statistics is not None:  # once: a copy per frame would wait for the GPU
            mean, std = self._statistics.mean.to(device), self._statistics.std.to(device)
            self._statistics = score_functions.ClassStatistics(mean, std)

    def __call__(self, output: NetworkOutput, geometry: Geometry, request: OutputRequest) -> Maps:
        """Makes the requested maps of one frame.

        Args:
            output: The network's outputs for the frame, N = 1.
            geometry: The frame's sizes.
            request: Must name scores that the model can compute.
        """
        maps = Maps(scores={name: self._score(name, output, geometry) for name in request.scores})
        rule = request.unknown
        labels = None
        if request.labels or (rule is not None and rule.open_set_labels):
            labels = self._labels(output.logits, geometry)
        if request.labels:
            maps.labels = labels
        if request.confidence:
            bands = row_bands(output, geometry.band)
            top = self._finished([o.logits.float().softmax(1).amax(1) for o in bands], geometry)
            maps.confidence = top.mul_(255).round_().to(torch.uint8)
        if rule is not None:
            raw = maps.scores.get(rule.score)
            if raw is None:
                raw = self._score(rule.score, output, geometry)
            self._add_unknown(maps, rule, raw, labels)
        return maps

    def _score(self, name: str, output: NetworkOutput, geometry: Geometry) -> Tensor:
        bands = row_bands(output, geometry.band)
        parts = [score_functions.compute(name, band, self._statistics) for band in bands]
        return self._finished(parts, geometry)

    def _finished(self, parts: list[Tensor], geometry: Geometry) -> Tensor:
        """Joins the bands (1, h, w) of a map and brings it to the frame's size."""
        whole = upsampled(torch.cat(parts, 1), geometry.grid, self._align_corners)
        return _cropped(whole, geometry)

    def _add_unknown(
        self, maps: Maps, rule: UnknownRule, raw: Tensor, labels: Tensor | None
    ) -> None:
        calibration = self._metadata.calibration_of(rule.score)
        if raw.device.type == "cpu":
            unit = torch.from_numpy(calibration.to_unit(raw.numpy()))
        else:
            unit = calibration.to_unit_on_device(raw)
        maps.unit_score = unit
        if rule.mask or rule.open_set_labels:
            unknown = unit >= float(np.float32(rule.threshold))
            if rule.open_set_labels and labels is not None:
                maps.open_set_labels = labels.masked_fill(unknown, len(self._metadata.classes))
            if rule.mask:
                maps.mask = unknown.view(torch.uint8) * 255

    def _labels(self, logits: Tensor, geometry: Geometry) -> Tensor:
        """The argmax at the size that the network saw, resized by nearest neighbour from there."""
        size = geometry.grid
        fine = min(geometry.seen, size, key=lambda s: s[0] * s[1])
        labels = upsampled_argmax(logits, fine, geometry.band, self._align_corners)
        if fine == size:
            return _cropped(labels, geometry)
        if labels.device.type == "cpu":
            resized = cv2.resize(labels.numpy(), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
            return torch.from_numpy(resized)
        return F.interpolate(labels[None, None], size=size, mode="nearest-exact")[0, 0]


def _cropped(values: Tensor, geometry: Geometry) -> Tensor:
    height, width = geometry.frame
    return values[:height, :width].contiguous()


def _array(values: Tensor) -> np.ndarray:
    if values.device.type != "cuda":
        return values.numpy()
    # Into pinned memory, so that the host queues all copies and waits once.
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return host.copy_(values, non_blocking=True).numpy()


def _to_host(values: Tensor | None) -> np.ndarray | None:
    return None if values is None else _array(values)

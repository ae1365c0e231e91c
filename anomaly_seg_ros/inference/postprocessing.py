"""From the network's outputs for a frame to the maps that were asked for."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_seg_ros import scores as score_functions
from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.inference.prediction import Prediction, UnknownRule, Wanted
from anomaly_seg_ros.inference.preprocessing import Size
from anomaly_seg_ros.inference.tiling import row_bands
from anomaly_seg_ros.inference.upsampling import upsampled, upsampled_argmax


@dataclass(frozen=True)
class Geometry:
    """Sizes on a frame's way, (height, width) in pixels each.

    Attributes:
        frame: As it came, and of the maps.
        seen: What the network saw of it.
        grid: What outputs are upsampled to. The frame's size, or ``seen`` where the frame kept its
            pixels and was padded: then the maps are cut, so that nothing is resampled.
        band: Rows of logits to score at once; None takes all.
    """

    frame: Size
    seen: Size
    grid: Size
    band: int | None


class MapMaker:
    """Makes maps where the outputs lie.

    Args:
        metadata: Of the network.
        device: Of the outputs.
        align_corners: Of the network's last upsampling.
    """

    def __init__(self, metadata: ModelMetadata, device: torch.device, align_corners: bool) -> None:
        self._metadata = metadata
        self._align_corners = align_corners
        self._statistics = metadata.statistics
        if self._statistics is not None:  # a copy for each frame would wait for a GPU
            self._statistics = score_functions.ClassStatistics(
                *(t.to(device) for t in (self._statistics.mean, self._statistics.std))
            )

    def make(self, output: NetworkOutput, geometry: Geometry, wanted: Wanted) -> dict[str, Tensor]:
        """What is wanted of one frame.

        Args:
            output: Of the network, for one frame.
            geometry: Of that frame.
            wanted: Scores that the model can compute.

        Returns:
            (H, W) maps by the names of ``Prediction``, raw scores as ``scores/<name>``.
        """
        maps = {f"scores/{name}": self._score(name, output, geometry) for name in wanted.scores}
        labels = None
        rule = wanted.unknown
        if wanted.labels or (rule is not None and rule.open_set_labels):
            labels = self._labels(output.logits, geometry)
        if wanted.labels:
            maps["labels"] = labels
        if wanted.confidence:
            bands = row_bands(output, geometry.band)
            top = self._finished([o.logits.float().softmax(1).amax(1) for o in bands], geometry)
            maps["confidence"] = top.mul_(255).round_().to(torch.uint8)
        if rule is not None:
            raw = maps.get(f"scores/{rule.score}")
            if raw is None:
                raw = self._score(rule.score, output, geometry)
            maps |= self._unknown(rule, raw, labels)
        return maps

    def _score(self, name: str, output: NetworkOutput, geometry: Geometry) -> Tensor:
        bands = row_bands(output, geometry.band)
        parts = [score_functions.compute(name, band, self._statistics) for band in bands]
        return self._finished(parts, geometry)

    def _finished(self, parts: list[Tensor], geometry: Geometry) -> Tensor:
        """Bands of a map (1, h, w) as one of the frame's size."""
        whole = upsampled(torch.cat(parts, 1), geometry.grid, self._align_corners)
        return _cut(whole, geometry)

    def _unknown(self, rule: UnknownRule, raw: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        calibration = self._metadata.calibration_of(rule.score)
        if raw.device.type == "cpu":
            unit = torch.from_numpy(calibration.to_unit(raw.numpy()))
        else:
            unit = calibration.to_unit_on_device(raw)
        maps = {"unit_score": unit}
        if rule.mask or rule.open_set_labels:
            unknown = unit >= float(np.float32(rule.threshold))
            if rule.open_set_labels:
                number = len(self._metadata.classes)
                maps["open_set_labels"] = labels.masked_fill(unknown, number)
            if rule.mask:
                maps["mask"] = unknown.view(torch.uint8) * 255
        return maps

    def _labels(self, logits: Tensor, geometry: Geometry) -> Tensor:
        """Argmax of logits brought to the size that the network saw, then nearest neighbour."""
        size = geometry.grid
        fine = min(geometry.seen, size, key=lambda s: s[0] * s[1])
        labels = upsampled_argmax(logits, fine, geometry.band, self._align_corners)
        if fine == size:
            return _cut(labels, geometry)
        if labels.device.type == "cpu":
            resized = cv2.resize(labels.numpy(), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
            return torch.from_numpy(resized)
        return F.interpolate(labels[None, None], size=size, mode="nearest-exact")[0, 0]


def downloaded(maps: dict[str, Tensor]) -> Prediction:
    """Maps as arrays; from a GPU they are complete only when its stream has been waited for."""
    prediction = Prediction()
    for name, value in maps.items():
        host = value
        if value.device.type == "cuda":
            # Into pinned memory, so that the host queues all copies and waits once.
            host = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
            host.copy_(value, non_blocking=True)
        if name.startswith("scores/"):
            prediction.scores[name.removeprefix("scores/")] = host.numpy()
        else:
            setattr(prediction, name, host.numpy())
    return prediction


def _cut(maps: Tensor, geometry: Geometry) -> Tensor:
    height, width = geometry.frame
    return maps[:height, :width].contiguous()

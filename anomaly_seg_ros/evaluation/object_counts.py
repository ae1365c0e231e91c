# SPDX-License-Identifier: Apache-2.0
"""Components with and without the object stage, at the threshold that a model is deployed with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from anomaly_seg_ros.calibration import RateTable, ScoreCalibration
from anomaly_seg_ros.metrics.components import ComponentScores, MinimumSizes
from anomaly_seg_ros.metrics.object_detection import ObjectDetections
from anomaly_seg_ros.objects.regions import ObjectRule, find_objects, paint

# A frame of noise may hold thousands; all of them are false alarms.
_LIMIT = 10_000


class UnitScale(NamedTuple):
    """How a raw score becomes a unit score, and the smallest score of an object on that scale."""

    threshold: float
    scale: float
    min_score: float


class ObjectCounts:
    """Component figures of the pixels above the deployed threshold, and of the objects there.

    Args:
        unit: The score's deployed threshold and scale.
        sizes: Smallest components that count; objects are searched from the same size on.
    """

    def __init__(self, unit: UnitScale, sizes: MinimumSizes) -> None:
        self._calibration = ScoreCalibration(unit.threshold, unit.scale, RateTable((), ()))
        self._rule = ObjectRule(
            min_area=max(sizes.predicted, 1), min_score=unit.min_score, limit=_LIMIT
        )
        self.pixels = ComponentScores(self._rule.threshold, sizes)
        self.objects = ComponentScores(self._rule.threshold, sizes)
        self.detections = ObjectDetections(sizes.target)

    @property
    def min_score(self) -> float:
        """The smallest score of an object."""
        return self._rule.min_score

    def update(self, raw: np.ndarray, mask: np.ndarray, name: str) -> None:
        """Adds one frame; see :class:`ComponentScores`."""
        unit = self._calibration.to_unit(raw)
        self.pixels.update(unit, mask, name)
        objects = find_objects(unit, self._rule)
        self.objects.update((paint(objects, mask.shape) > 0).astype(np.float32), mask, name)
        self.detections.update(objects, mask)

    def merge(self, other: ObjectCounts) -> None:
        """Adds the frames of another collection with the same settings."""
        self.pixels.merge(other.pixels)
        self.objects.merge(other.objects)
        self.detections.merge(other.detections)

    def state(self) -> dict[str, np.ndarray]:
        """The frames so far, as arrays of numbers that can be saved without pickle."""
        parts = {
            "pixels": self.pixels.state(),
            "objects": self.objects.state(),
            "detections": self.detections.state(),
        }
        return {f"{part}/{key}": a for part, arrays in parts.items() for key, a in arrays.items()}

    def add_state(self, state: dict[str, np.ndarray]) -> None:
        """Adds the frames of a :meth:`state`."""

        def part(name: str) -> dict[str, np.ndarray]:
            start = f"{name}/"
            return {k.removeprefix(start): a for k, a in state.items() if k.startswith(start)}

        self.pixels.merge(ComponentScores.from_state(part("pixels")))
        self.objects.merge(ComponentScores.from_state(part("objects")))
        self.detections.merge(ObjectDetections.from_state(part("detections")))

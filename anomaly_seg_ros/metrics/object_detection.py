# SPDX-License-Identifier: Apache-2.0
"""How many unknown objects are found, at how many false alarms a frame.

Objects count as components do in SegmentMeIfYouCan (:mod:`.components`): with K(g) the union of
the objects that touch the ground-truth component g, and A all ground truth,

    sIoU(g) = |g and K(g)| / |g or (K(g) without A minus g)|
    PPV(p)  = |p and A| / |p|

g is found if sIoU(g) >= 1/4, p is a false alarm if PPV(p) < 1/4: the lowest of the benchmark's
thresholds. Pixels without a label belong to neither. Counted over frames, at every smallest score
of an object, this is the free-response curve (FROC: Chakraborty, Medical Physics 16, 1989).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from anomaly_seg_ros.errors import ImageError
from anomaly_seg_ros.labels import ANOMALY, IN_DISTRIBUTION
from anomaly_seg_ros.metrics.components import label_components
from anomaly_seg_ros.objects.regions import UnknownObject

# sIoU from which a thing is found, PPV below which an object is a false alarm.
OVERLAP = 0.25


class DetectionCounts(NamedTuple):
    """What is found and what is not, over all frames."""

    found: int
    targets: int
    false_alarms: int
    frames: int


class _Frame(NamedTuple):
    """Overlaps of one frame.

    Attributes:
        targets: (G,) int64, pixels of each ground-truth component.
        areas: (P,) int64, labelled pixels of each object, without those on too small targets.
        shared: (G, P) int64, pixels that both have.
        scores: (P,) float64.
    """

    targets: np.ndarray
    areas: np.ndarray
    shared: np.ndarray
    scores: np.ndarray


class ObjectDetections:
    """Collects the objects of frames with ground truth; independent of the order of frames.

    Args:
        min_target: Pixels of the smallest ground-truth component that counts; the pixels of
            smaller ones are ignored.
    """

    def __init__(self, min_target: int = 1) -> None:
        self.min_target = min_target
        self._frames: list[_Frame] = []

    def update(self, objects: Sequence[UnknownObject], mask: np.ndarray) -> None:
        """Adds one frame.

        Args:
            objects: What was found in it, whatever the score.
            mask: (H, W) uint8: 0 in-distribution, 1 anomaly, anything else ignored.

        Raises:
            ImageError: An object lies outside the mask.
        """
        target = mask == ANOMALY
        labelled = target | (mask == IN_DISTRIBUTION)
        numbers, sizes = label_components(target)
        counted = sizes >= max(self.min_target, 1)
        areas, shared = [], []
        for unknown in objects:
            rows, columns = unknown.box.slices
            if unknown.box.left + unknown.mask.shape[1] > mask.shape[1] or (
                unknown.box.top + unknown.mask.shape[0] > mask.shape[0]
            ):
                raise ImageError(f"an object at {tuple(unknown.box)} in a mask of {mask.shape}")
            inside = unknown.mask & labelled[rows, columns]
            on = np.bincount(numbers[rows, columns][inside], minlength=sizes.size)
            # Entry 0 are the pixels on no target.
            areas.append(on[0] + on[counted].sum())
            shared.append(on[counted])
        self._frames.append(
            _Frame(
                sizes[counted],
                np.array(areas, np.int64),
                np.array(shared, np.int64).reshape(len(areas), int(counted.sum())).T,
                np.array([unknown.score for unknown in objects]),
            )
        )

    def merge(self, other: ObjectDetections) -> None:
        """Adds the frames of another collection with the same ``min_target``."""
        if other.min_target != self.min_target:
            raise ValueError(
                f"cannot merge targets of {other.min_target} pixels and more into "
                f"{self.min_target} and more"
            )
        self._frames += other._frames

    def at(self, min_score: float) -> DetectionCounts:
        """Counts with the objects of ``score >= min_score`` only."""
        found = targets = 0
        for frame in self._frames:
            kept = frame.scores >= min_score
            shared, areas = frame.shared[:, kept], frame.areas[kept]
            covered = shared.sum(1)
            outside = ((shared > 0) * (areas - shared.sum(0))).sum(1)
            found += int((covered / (frame.targets + outside) >= OVERLAP).sum())
            targets += frame.targets.size
        alarms = self.false_alarm_scores()
        return DetectionCounts(found, targets, int((alarms >= min_score).sum()), len(self._frames))

    def false_alarm_scores(self) -> np.ndarray:
        """Scores of all objects that are false alarms, falling; float64."""
        scores = [np.empty(0)]
        for frame in self._frames:
            judged = frame.areas > 0  # others lie on pixels without a label
            hits = frame.shared.sum(0)[judged]
            scores.append(frame.scores[judged][hits / frame.areas[judged] < OVERLAP])
        return np.sort(np.concatenate(scores))[::-1]

    def state(self) -> dict[str, np.ndarray]:
        """The whole state, as arrays of numbers that can be saved without pickle."""
        frames = self._frames
        return {
            "min_target": np.array(self.min_target),
            # (targets, objects) of each frame, by which the others are cut.
            "shapes": np.array([frame.shared.shape for frame in frames], np.int64).reshape(-1, 2),
            **{
                key: np.concatenate([getattr(frame, key).ravel() for frame in frames])
                if frames
                else np.empty(0)
                for key in _Frame._fields
            },
        }

    @classmethod
    def from_state(cls, state: dict[str, np.ndarray]) -> ObjectDetections:
        """The collection whose :meth:`state` this is."""
        detections = cls(int(state["min_target"]))
        targets, objects = state["shapes"].T
        lengths = {
            "targets": targets, "areas": objects, "shared": targets * objects, "scores": objects
        }  # fmt: skip
        cut = {key: np.split(state[key], np.cumsum(n)[:-1]) for key, n in lengths.items()}
        for index, shape in enumerate(state["shapes"]):
            frame = _Frame(*(cut[key][index] for key in _Frame._fields))
            detections._frames.append(frame._replace(shared=frame.shared.reshape(shape)))
        return detections

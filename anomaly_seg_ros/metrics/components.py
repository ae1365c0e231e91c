# SPDX-License-Identifier: Apache-2.0
"""Component-wise metrics of SegmentMeIfYouCan (Chan et al., NeurIPS 2021).

Pixel metrics hardly notice a missed small object. Here each connected component counts the same,
whatever its size. Ground-truth and predicted components are 8-connected. With K(g) the union of
the predicted components that touch the ground-truth component g, and A all ground truth:

    sIoU(g) = |g and K(g)| / |g or (K(g) without A minus g)|
    PPV(p)  = |p and A| / |p|

A ground-truth component is found at t when sIoU >= t; a predicted one is a false alarm when
PPV < t. F1 = 2 TP / (2 TP + FN + FP) over the counts of all frames, averaged over t.

Where the paper is silent, this follows the public evaluator: predictions on pixels without a
label are removed before components are formed, a predicted component below the minimum size is
dropped, and the pixels of a ground-truth component below its minimum size are then ignored, also
by the PPV of a prediction that covers them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from anomaly_seg_ros.labels import ANOMALY, IN_DISTRIBUTION
from anomaly_seg_ros.metrics.thresholds import alarms

# The evaluator's own expression, because a fraction may fall exactly on one of these.
THRESHOLDS = np.linspace(0.25, 0.75, 11)

# Sums are integer multiples of this, so that their order does not matter: each component's share
# is exact to 5e-13, and an int64 holds eight million components.
_UNIT = 2.0**-40


class MinimumSizes(NamedTuple):
    """Smallest components that count, in pixels."""

    predicted: int
    target: int


ANOMALY_TRACK = MinimumSizes(predicted=500, target=100)
OBSTACLE_TRACK = MinimumSizes(predicted=50, target=10)
COMPONENT_SIZES = {"obstacle_track": OBSTACLE_TRACK, "anomaly_track": ANOMALY_TRACK}


class FrameComponents(NamedTuple):
    """Overlaps of the components of one frame, in no particular order.

    Attributes:
        siou: (G,) float64, sIoU of each ground-truth component.
        ppv: (P,) float64, PPV of each predicted component.
        siou_predicted: (P,) float64, sIoU with ground truth and prediction swapped, which the
            evaluator only reports.
    """

    siou: np.ndarray
    ppv: np.ndarray
    siou_predicted: np.ndarray


@dataclass(frozen=True)
class ComponentMetrics:
    """Pooled figures as fractions in [0, 1]; NaN without a component to judge.

    Attributes:
        F1: Mean of ``f1`` over the thresholds.
        sIoU: Mean over all ground-truth components.
        PPV: Mean over all predicted components.
        sIoU_predicted: Mean over all predicted components.
        targets: Number of ground-truth components.
        predictions: Number of predicted components.
        thresholds: The values of t.
        true_positives: Found ground-truth components at each t.
        false_negatives: Missed ground-truth components at each t.
        false_positives: Predicted components that are false alarms at each t.
        f1: F1 at each t.
        score_threshold: The score from which a pixel is predicted anomalous.
    """

    F1: float
    sIoU: float  # noqa: N815 - the field's name
    PPV: float
    sIoU_predicted: float  # noqa: N815
    targets: int
    predictions: int
    thresholds: tuple[float, ...]
    true_positives: tuple[int, ...]
    false_negatives: tuple[int, ...]
    false_positives: tuple[int, ...]
    f1: tuple[float, ...]
    score_threshold: float


def label_components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """8-connected components of a (H, W) bool mask.

    Returns:
        ``(labels, sizes)``: (H, W) int32 with 0 outside and 1..C inside, and (C + 1,) int64 pixel
        counts, the first of them 0.
    """
    picture = np.ascontiguousarray(mask).view(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(picture, connectivity=8)
    sizes = stats[:, cv2.CC_STAT_AREA].astype(np.int64)
    sizes[0] = 0
    return labels, sizes


def compare_components(
    target: np.ndarray, ignored: np.ndarray, predicted: np.ndarray, sizes: MinimumSizes
) -> FrameComponents:
    """Judges the components of one frame.

    Args:
        target: (H, W) bool, anomalous pixels.
        ignored: (H, W) bool, pixels without a label.
        predicted: (H, W) bool, pixels predicted anomalous.
        sizes: Smaller components are left out.
    """
    target_labels, target_sizes = label_components(target & ~ignored)
    labels, predicted_sizes = label_components(predicted & ~ignored)
    large_target = target_sizes >= max(sizes.target, 1)
    large = predicted_sizes >= max(sizes.predicted, 1)

    # Pixels of each predicted component on small targets, and on each large target.
    pixels = np.flatnonzero((target_labels.ravel() > 0) & (labels.ravel() > 0))
    t, p = target_labels.ravel()[pixels], labels.ravel()[pixels]
    kept = large[p]
    t, p = t[kept], p[kept]
    on_small = np.bincount(p[~large_target[t]], minlength=large.size)
    t, p = t[large_target[t]], p[large_target[t]]
    pairs, shared = np.unique(t.astype(np.int64) * large.size + p, return_counts=True)
    t, p = np.divmod(pairs, large.size)

    # The size of each prediction without its pixels on small targets.
    areas = np.where(large, predicted_sizes - on_small, 0)
    hits = np.bincount(p, shared, large.size)  # of each prediction, on any target
    covered = np.bincount(t, shared, large_target.size)  # of each target, by any prediction
    # |K(g) without A| and its mirror image: pixels of the touching components outside.
    outside = np.bincount(t, (areas - hits)[p], large_target.size)
    missed = np.bincount(p, (target_sizes - covered)[t], large.size)

    judged, exists = large_target, areas > 0
    return FrameComponents(
        siou=covered[judged] / (target_sizes + outside)[judged],
        ppv=hits[exists] / areas[exists],
        siou_predicted=hits[exists] / (areas + missed)[exists],
    )


class ComponentScores:
    """Counts found and missed components and false alarms over any number of frames.

    One pass in constant memory, mergeable, independent of the order. The threshold must be
    known: the benchmark takes :func:`~anomaly_seg_ros.metrics.thresholds.best_f1_threshold` of a
    first pass over the same frames.

    Args:
        threshold: A pixel is predicted anomalous if its score >= threshold.
        sizes: ``ANOMALY_TRACK``, ``OBSTACLE_TRACK`` or other minimum sizes.
    """

    def __init__(self, threshold: float, sizes: MinimumSizes = ANOMALY_TRACK) -> None:
        self.threshold = float(threshold)
        self.sizes = MinimumSizes(*sizes)
        # true positives, false negatives, false positives at each of THRESHOLDS
        self._counts = np.zeros((3, THRESHOLDS.size), np.int64)
        self._components = np.zeros(2, np.int64)  # ground truth, predicted
        self._sums = np.zeros(3, np.int64)  # sIoU, PPV, sIoU of predictions, in _UNIT

    def update(self, score: np.ndarray, mask: np.ndarray, name: str = "") -> FrameComponents:
        """Adds one frame.

        Args:
            score: (H, W) floating point, higher = more anomalous.
            mask: (H, W) uint8: 0 in-distribution, 1 anomaly, anything else ignored.
            name: The frame's name, for error messages.

        Returns:
            This frame's own values, for pictures and for resampling over frames.

        Raises:
            ImageError: The shapes differ, or a labelled pixel's score is not finite.
        """
        score, mask = np.asarray(score), np.asarray(mask)
        target = mask == ANOMALY
        labelled = target | (mask == IN_DISTRIBUTION)
        predicted = alarms(score, labelled, self.threshold, name)
        frame = compare_components(target, ~labelled, predicted, self.sizes)
        found = frame.siou[:, None] >= THRESHOLDS
        self._counts += [found.sum(0), (~found).sum(0), (frame.ppv[:, None] < THRESHOLDS).sum(0)]
        self._components += [frame.siou.size, frame.ppv.size]
        self._sums += [np.rint(values / _UNIT).astype(np.int64).sum() for values in frame]
        return frame

    def merge(self, other: ComponentScores) -> None:
        """Adds the counts of another collection with the same threshold and sizes."""
        if (other.threshold, other.sizes) != (self.threshold, self.sizes):
            raise ValueError(
                f"cannot merge components at threshold {other.threshold} with {other.sizes} into "
                f"threshold {self.threshold} with {self.sizes}"
            )
        self._counts += other._counts
        self._components += other._components
        self._sums += other._sums

    def compute(self) -> ComponentMetrics:
        """Figures over everything added so far."""
        tp, fn, fp = self._counts
        targets, predictions = (int(n) for n in self._components)
        total = np.array([targets, predictions, predictions])
        with np.errstate(divide="ignore", invalid="ignore"):
            f1 = 2 * tp / (2 * tp + fn + fp)
            siou, ppv, siou_predicted = self._sums * _UNIT / total
        return ComponentMetrics(
            F1=float(f1.mean()),
            sIoU=float(siou),
            PPV=float(ppv),
            sIoU_predicted=float(siou_predicted),
            targets=targets,
            predictions=predictions,
            thresholds=tuple(THRESHOLDS.tolist()),
            true_positives=tuple(tp.tolist()),
            false_negatives=tuple(fn.tolist()),
            false_positives=tuple(fp.tolist()),
            f1=tuple(f1.tolist()),
            score_threshold=self.threshold,
        )

    def state(self) -> dict[str, np.ndarray]:
        """The whole state, as arrays of numbers that can be saved without pickle."""
        return {
            "threshold": np.array(self.threshold),
            "sizes": np.array(self.sizes, np.int64),
            "counts": self._counts.copy(),
            "components": self._components.copy(),
            "sums": self._sums.copy(),
        }

    @classmethod
    def from_state(cls, state: dict[str, np.ndarray]) -> ComponentScores:
        """The collection whose :meth:`state` this is."""
        sizes = MinimumSizes(*(int(n) for n in state["sizes"]))
        scores = cls(float(state["threshold"]), sizes)
        scores._counts += state["counts"]
        scores._components += state["components"]
        scores._sums += state["sums"]
        return scores

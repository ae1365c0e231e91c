# SPDX-License-Identifier: Apache-2.0
"""Open-set segmentation: IoU and F1 of K known classes and "unknown" (DenseHybrid, section 5.2).

Every pixel with an anomaly score >= the threshold is predicted as class K+1, whatever the
segmenter said. Over the (K+1)-way confusion, without pixels that have no label,

    open-IoU_k = TP_k / (TP_k + FP_k + FN_k)     (eq. 21, 22)

counts a missed anomaly as a false positive of the class it was given, and a false alarm as a
false negative of the class it hides. open-mIoU averages over the K known classes only, so that a
perfect detector reaches the closed-set mIoU; the difference of the two is the gap.

The threshold comes from other data. Across folds it is the one that detects 95 % of the anomalous
pixels of the *other* folds; on StreetHazards there are two, the cities t5 and t6. (DenseHybrid,
section 6.2. Its section 5.2 speaks of "the 5th percentile of inlier scores"; it is that of the
anomalies' scores.) That takes two passes: a :class:`PixelScores` a fold and
:func:`held_out_thresholds` of their positives, then an :class:`OpenSetConfusion` a fold and
:func:`combine_folds`, which averages the folds' figures by their numbers of images.

DenseHybrid's code takes the threshold on scores and labels at half size and measures at full
size; it wants more than 95 %, searches only the corners of the ROC curve, and alarms strictly
above what it finds. The caller decides on sizes; the rest moves the threshold by one anomalous
pixel's score or a few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anomaly_seg_ros.errors import ImageError, ParameterError
from anomaly_seg_ros.labels import ANOMALY, IN_DISTRIBUTION
from anomaly_seg_ros.metrics.exact_counts import ExactCounts
from anomaly_seg_ros.metrics.thresholds import threshold_at_tpr, to_float32


@dataclass(frozen=True)
class OpenSetMetrics:
    """Figures at one threshold, as fractions in [0, 1]; NaN where they are not defined.

    A class that occurs in neither ground truth nor prediction has no IoU and no F1 and is left
    out of the means. One that is only predicted has 0, as eq. 21 and the public code say.

    Attributes:
        open_iou: (K,) float64, open-IoU of each known class.
        closed_iou: (K,) float64, IoU without a detector and without anomalous pixels.
        f1: (K + 1,) float64, open-set F1 of each known class and of the unknown class.
        open_miou: Mean of ``open_iou``.
        closed_miou: Mean of ``closed_iou``.
        gap: ``closed_miou`` - ``open_miou``.
        mean_f1: Mean of ``f1`` over K + 1 classes, the paper's.
        mean_f1_known: Mean of ``f1`` over the K known classes, the public code's (which also
            leaves out a class without a hit, as 0 / 0; here its F1 is 0).
        anomaly_iou: IoU of the unknown class.
        tpr: Share of the anomalous pixels that are detected: how well the threshold carries over.
        fpr: Share of the known pixels that are false alarms.
        threshold: On the anomaly score's scale.
        frames: Number of frames.
    """

    open_iou: np.ndarray
    closed_iou: np.ndarray
    f1: np.ndarray
    open_miou: float
    closed_miou: float
    gap: float
    mean_f1: float
    mean_f1_known: float
    anomaly_iou: float
    tpr: float
    fpr: float
    threshold: float
    frames: int


class OpenSetConfusion:
    """Counts of (truth, predicted class, alarm) at one threshold; exact, one pass, mergeable.

    Args:
        num_classes: K, number of known classes, at most 254.
        threshold: A pixel is predicted unknown if its score >= threshold.

    Raises:
        ParameterError: The number of classes is out of range.
    """

    def __init__(self, num_classes: int, threshold: float) -> None:
        if not 1 <= num_classes <= 254:
            raise ParameterError(f"num_classes must lie in 1..254, got {num_classes}")
        self.num_classes = num_classes
        self.threshold = float(threshold)
        self.frames = 0
        # Truth K is an anomaly; prediction K is a label that is no class.
        self.counts = np.zeros((num_classes + 1, num_classes + 1, 2), np.int64)

    def update(
        self,
        labels: np.ndarray,
        mask: np.ndarray,
        prediction: np.ndarray,
        score: np.ndarray,
        name: str = "",
    ) -> None:
        """Adds one frame.

        Args:
            labels: (H, W) integer ground-truth labels, read where ``mask`` is 0; pixels with a
                label outside 0..K-1 are dropped there.
            mask: (H, W) uint8: 0 in-distribution, 1 anomaly, anything else dropped.
            prediction: (H, W) integer labels of the segmenter; outside 0..K-1 they are wrong for
                every class.
            score: (H, W) floating point, higher = more anomalous.
            name: The frame's name, for error messages.

        Raises:
            ImageError: The shapes differ, or a labelled pixel's score is not finite.
        """
        frame = f"frame {name!r}" if name else "frame"
        arrays = [np.asarray(array) for array in (labels, mask, prediction, score)]
        if len({array.shape for array in arrays}) != 1:
            shapes = ", ".join(str(array.shape) for array in arrays)
            raise ImageError(
                f"{frame}: labels, mask, prediction and score differ in size: {shapes}"
            )
        labels, mask, prediction, score = arrays
        k = self.num_classes
        anomalous = mask == ANOMALY
        labelled = anomalous | ((mask == IN_DISTRIBUTION) & (labels >= 0) & (labels < k))
        truth = np.where(anomalous, k, labels)[labelled].astype(np.int64)
        predicted = prediction[labelled].astype(np.int64)
        predicted[(predicted < 0) | (predicted >= k)] = k
        scores = score[labelled].astype(np.float32, copy=False)
        if bad := scores.size - int(np.count_nonzero(np.isfinite(scores))):
            raise ImageError(f"{frame}: {bad} of its labelled pixels' scores are not finite")
        alarm = scores >= np.float32(to_float32(self.threshold))
        cells = 2 * (truth * (k + 1) + predicted) + alarm
        self.counts += np.bincount(cells, minlength=self.counts.size).reshape(self.counts.shape)
        self.frames += 1

    def merge(self, other: OpenSetConfusion) -> None:
        """Adds the counts of another matrix with the same classes and threshold."""
        if (other.num_classes, other.threshold) != (self.num_classes, self.threshold):
            raise ValueError(
                f"cannot merge {other.num_classes} classes at threshold {other.threshold} into "
                f"{self.num_classes} at {self.threshold}"
            )
        self.counts += other.counts
        self.frames += other.frames

    def open_matrix(self) -> np.ndarray:
        """(K + 1, K + 2) int64 by truth and by prediction (K classes, unknown, no class)."""
        kept, alarmed = self.counts[:, :, 0], self.counts[:, :, 1]
        return np.column_stack([kept[:, :-1], alarmed.sum(1), kept[:, -1]])

    def closed_matrix(self) -> np.ndarray:
        """(K, K + 1) int64 by truth and the segmenter's own prediction (K classes, no class)."""
        return self.counts[:-1].sum(2)

    def compute(self) -> OpenSetMetrics:
        """Figures over everything added so far."""
        k = self.num_classes
        open_matrix, closed_matrix = self.open_matrix(), self.closed_matrix()
        iou, f1 = iou_and_f1(open_matrix)
        closed_iou, _ = iou_and_f1(closed_matrix)
        known, anomalous = open_matrix[:k], open_matrix[k]
        open_miou, closed_miou = mean_of_defined(iou[:k]), mean_of_defined(closed_iou)
        return OpenSetMetrics(
            open_iou=iou[:k],
            closed_iou=closed_iou,
            f1=f1,
            open_miou=open_miou,
            closed_miou=closed_miou,
            gap=closed_miou - open_miou,
            mean_f1=mean_of_defined(f1),
            mean_f1_known=mean_of_defined(f1[:k]),
            anomaly_iou=float(iou[k]),
            tpr=float(_ratio(anomalous[k], anomalous.sum())),
            fpr=float(_ratio(known[:, k].sum(), known.sum())),
            threshold=self.threshold,
            frames=self.frames,
        )

    def state(self) -> dict[str, np.ndarray]:
        """The whole state, as arrays of numbers that can be saved without pickle."""
        return {
            "threshold": np.array(self.threshold),
            "frames": np.array(self.frames, np.int64),
            "counts": self.counts.copy(),
        }

    @classmethod
    def from_state(cls, state: dict[str, np.ndarray]) -> OpenSetConfusion:
        """The matrix whose :meth:`state` this is."""
        matrix = cls(len(state["counts"]) - 1, float(state["threshold"]))
        matrix.counts += state["counts"]
        matrix.frames = int(state["frames"])
        return matrix


def iou_and_f1(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU and F1 of each class, NaN where it occurs in neither truth nor prediction.

    Args:
        matrix: (C, C or more) int64 counts of (truth, prediction); further columns are
            predictions that are wrong for every class.

    Returns:
        ``(iou, f1)``, (C,) float64.
    """
    hits = np.diagonal(matrix)
    # Truth and prediction together, the hits twice.
    both = matrix.sum(1) + matrix[:, : len(matrix)].sum(0)
    return _ratio(hits, both - hits), _ratio(2 * hits, both)


def mean_of_defined(values: np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN if all are."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.true_divide(part, whole)


@dataclass(frozen=True)
class CrossFoldMetrics:
    """Figures over folds, each measured at the threshold of the others.

    Attributes:
        folds: Figures of each fold alone.
        open_iou: (K,) float64, mean of the folds' open-IoU, weighted by their images; NaN for a
            class that a fold lacks.
        open_miou: Mean of the folds' open-mIoU, weighted by their images.
        mean_f1: Mean of the folds' mean F1, weighted by their images.
        mean_f1_known: Mean of the folds' ``mean_f1_known``, weighted by their images.
        closed_miou: Closed-set mIoU over the pixels of all folds together.
        gap: ``closed_miou`` - ``open_miou``.
    """

    folds: tuple[OpenSetMetrics, ...]
    open_iou: np.ndarray
    open_miou: float
    mean_f1: float
    mean_f1_known: float
    closed_miou: float
    gap: float


def held_out_thresholds(
    folds: Sequence[ExactCounts], rate: float = 0.95, strict: bool = False
) -> list[float]:
    """For each fold, the threshold that detects ``rate`` of the *other* folds' anomalies.

    Args:
        folds: Scores of the anomalous pixels of each fold, :attr:`PixelScores.positives`.
        rate: True-positive rate.
        strict: See :func:`~anomaly_seg_ros.metrics.thresholds.threshold_at_tpr`.

    Raises:
        ParameterError: Fewer than two folds, or the others of one have no anomalous pixel.
    """
    if len(folds) < 2:
        raise ParameterError(f"cross-fold thresholds need two folds or more, got {len(folds)}")
    thresholds = []
    for left_out in range(len(folds)):
        others = ExactCounts()
        for index, scores in enumerate(folds):
            if index != left_out:
                others.merge(scores)
        thresholds.append(threshold_at_tpr(others, rate, strict))
    return thresholds


def combine_folds(folds: Sequence[OpenSetConfusion]) -> CrossFoldMetrics:
    """Averages folds that were each counted at the threshold of the others.

    Raises:
        ParameterError: The folds differ in their number of classes, or none has a frame.
    """
    sizes = {fold.num_classes for fold in folds}
    weights = np.array([fold.frames for fold in folds], np.float64)
    if len(sizes) != 1 or not weights.sum():
        raise ParameterError(
            f"folds must have frames and the same classes, got {weights.astype(int).tolist()} "
            f"frames and {sorted(sizes)} classes"
        )
    metrics = tuple(fold.compute() for fold in folds)
    weights /= weights.sum()
    closed_iou, _ = iou_and_f1(np.sum([fold.closed_matrix() for fold in folds], axis=0))
    closed_miou = mean_of_defined(closed_iou)
    open_miou = float(weights @ [fold.open_miou for fold in metrics])
    return CrossFoldMetrics(
        folds=metrics,
        open_iou=weights @ np.stack([fold.open_iou for fold in metrics]),
        open_miou=open_miou,
        mean_f1=float(weights @ [fold.mean_f1 for fold in metrics]),
        mean_f1_known=float(weights @ [fold.mean_f1_known for fold in metrics]),
        closed_miou=closed_miou,
        gap=closed_miou - open_miou,
    )

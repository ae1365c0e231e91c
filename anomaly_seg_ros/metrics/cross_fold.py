"""Open-set figures over folds, each measured at the threshold of the others.

The threshold detects 95 % of the anomalous pixels of the *other* folds; on StreetHazards there
are two, the cities t5 and t6. (DenseHybrid, section 6.2. Its section 5.2 speaks of "the 5th
percentile of inlier scores"; it is that of the anomalies' scores.) The folds' figures are averaged
by their numbers of images.

One pass over the data: an :class:`OpenSetScores` a fold, then :func:`cross_fold`. Two passes: a
:class:`PixelScores` a fold, :func:`held_out_thresholds` of their positives, an
:class:`OpenSetConfusion` a fold, :func:`combine_folds`.

DenseHybrid's code takes the threshold on scores and labels at half size and measures at full
size; it wants more than 95 %, searches only the corners of the ROC curve, and alarms strictly
above what it finds (:func:`~anomaly_seg_ros.metrics.thresholds.just_above`). The caller decides on
sizes; the rest moves the threshold by one anomalous pixel's score or a few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.metrics.exact_counts import ExactCounts
from anomaly_seg_ros.metrics.open_set_iou import (
    OpenSetConfusion,
    OpenSetMetrics,
    iou_and_f1,
    mean_of_defined,
)
from anomaly_seg_ros.metrics.open_set_scores import OpenSetScores
from anomaly_seg_ros.metrics.thresholds import threshold_at_tpr


@dataclass(frozen=True)
class CrossFoldMetrics:
    """Figures over folds, each measured at the threshold of the others.

    Attributes:
        folds: Of each fold alone.
        open_iou: (K,) float64, mean of the folds' open-IoU, weighted by their images; NaN for a
            class that a fold lacks.
        open_miou: Likewise.
        mean_f1: Likewise.
        mean_f1_known: Likewise.
        closed_miou: Over the pixels of all folds together.
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
        folds: Scores of the anomalous pixels of each fold: :attr:`OpenSetScores.anomalies` or
            :attr:`PixelScores.positives`.
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
    """Figures over folds that were each counted at the threshold of the others.

    Raises:
        ParameterError: The folds differ in their classes, or there is no frame at all.
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
    closed_iou, _ = iou_and_f1(sum(fold.closed_matrix() for fold in folds))
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


def cross_fold(folds: Sequence[OpenSetScores], rate: float = 0.95) -> CrossFoldMetrics:
    """Each fold at the threshold of the others, weighted by images; one pass over the data.

    Args:
        folds: On StreetHazards the cities t5 and t6.
        rate: True-positive rate that the thresholds aim at.

    Raises:
        ParameterError: See :func:`held_out_thresholds` and :func:`combine_folds`.
    """
    thresholds = held_out_thresholds([fold.anomalies for fold in folds], rate)
    pairs = zip(folds, thresholds, strict=True)
    return combine_folds([fold.at(threshold) for fold, threshold in pairs])

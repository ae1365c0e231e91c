"""False-positive rate at a true-positive rate: the four conventions in public use.

They agree where the curve has a point at 95 % and are tens of percent apart where anomalous
pixels are few or tied. ``FIRST_AT_LEAST`` is the benchmarks' own and the default everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from anomaly_seg_ros.metrics.threshold_counts import ThresholdCounts

FIRST_AT_LEAST = "first_at_least"
FIRST_ABOVE = "first_above"
NEAREST = "nearest"
INTERPOLATED = "interpolated"

CONVENTIONS = {
    FIRST_AT_LEAST: "false-positive rate at the first threshold with true-positive rate >= 0.95",
    FIRST_ABOVE: "false-positive rate at the first threshold with true-positive rate > 0.95",
    NEAREST: "false-positive rate at the lowest threshold with true-positive rate nearest to 0.95",
    INTERPOLATED: "false-positive rate at true-positive rate 0.95, linear between thresholds",
}
"""By name; the public code of each is in the docstrings of this file's functions."""


def fprs_at_tpr(
    parts: Iterable[ThresholdCounts], positives: int, negatives: int, rate: float = 0.95
) -> dict[str, float]:
    """False-positive rates in every convention, by name.

    Args:
        parts: All thresholds, falling, in parts; read only as far as needed.
        positives: Number of anomalous pixels, at least 1.
        negatives: Number of in-distribution pixels, at least 1.
        rate: True-positive rate in (0, 1).

    Raises:
        ValueError: The rate is not inside (0, 1).
    """
    if not 0 < rate < 1:
        raise ValueError(f"true-positive rate {rate:g} is outside (0, 1)")
    near = _around(parts, positives, rate)
    reached = near.true_positives / positives
    return {
        FIRST_AT_LEAST: _first(near, reached >= rate) / negatives,
        FIRST_ABOVE: _first(near, reached > rate) / negatives,
        NEAREST: _nearest(near, positives, rate) / negatives,
        INTERPOLATED: _interpolated(near, reached, negatives, rate),
    }


def _first(near: ThresholdCounts, wanted: np.ndarray) -> int:
    """False positives at the first wanted threshold.

    With ``>=``: Fishyscapes and SegmentMeIfYouCan (``searchsorted(tpr, 0.95)``). With ``>``:
    DenseHybrid and RbA, which search scikit-learn's ``roc_curve``. Unless told otherwise it leaves
    out points inside straight stretches, which can move theirs where scores are few and tied;
    here every threshold counts.
    """
    return int(near.false_positives[np.argmax(wanted)])


def _nearest(near: ThresholdCounts, positives: int, rate: float) -> int:
    """Hendrycks' ``fpr_and_fdr_at_recall``, which PEBAL uses.

    It walks up from the first threshold with full recall. So of two recalls as near the higher
    wins, and of the thresholds with one recall the lowest, the one with the most false positives.
    """
    # Of the thresholds with one recall the lowest lies just above the next anomalous score.
    last_before = near.false_positives - near.equal_negatives
    hits, alarms = near.true_positives, np.append(last_before[1:], near.false_positives[-1])
    # Before the window starts no in-distribution pixel may be an alarm: then no such threshold.
    if hits[0] / positives > rate and last_before[0] > 0:
        hits, alarms = np.append(0, hits), np.append(last_before[0], alarms)
    distance = np.abs(hits / positives - rate)[::-1]
    return int(alarms[::-1][np.argmin(distance)])


def _interpolated(
    near: ThresholdCounts, reached: np.ndarray, negatives: int, rate: float
) -> float:
    """``fpr_at_95_tpr`` of the package ood-metrics, which SML uses.

    Between the last threshold with a true-positive rate up to ``rate`` and the first above it.
    """
    above = int(np.argmax(reached > rate))
    alarms = int(near.false_positives[above])
    before = alarms - int(near.equal_negatives[above])
    rates = [0.0 if above == 0 else reached[above - 1], reached[above]]
    return float(np.interp(rate, rates, [before / negatives, alarms / negatives]))


def _around(parts: Iterable[ThresholdCounts], positives: int, rate: float) -> ThresholdCounts:
    """The first threshold whose recall exceeds ``rate``, the two before and the one after it."""
    before = ThresholdCounts.concatenate([])
    for part in parts:
        near = ThresholdCounts.concatenate([before, part])
        above = int(np.searchsorted(near.true_positives / positives, rate, side="right"))
        # The one after may stand in the next part.
        if above + 1 < near.thresholds.size or near.true_positives[-1] == positives:
            return near[max(above - 2, 0) : above + 2]
        before = near[-3:]
    raise ValueError("the thresholds end before every anomalous pixel is counted")

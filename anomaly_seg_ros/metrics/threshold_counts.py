# SPDX-License-Identifier: Apache-2.0
"""AP, AUROC and FPR95 from the counts of pixels at or above each anomalous pixel's score.

A threshold between two anomalous scores changes no recall, so it is enough to know how many
in-distribution pixels lie above each *anomalous* score. AP and AUROC are scikit-learn's
(``average_precision_score``, ``roc_auc_score``), without ranking every pixel.

The false-positive rate at a true-positive rate has four conventions in public use. They agree
where the curve has a point at 95 % and are tens of percent apart where anomalous pixels are few or
tied. ``FIRST_AT_LEAST`` is the benchmarks' own and the default everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from anomaly_seg_ros.metrics.exact_counts import ExactCounts, from_keys, page_keys


@dataclass(frozen=True)
class ThresholdCounts:
    """Pixels at or above each distinct positive score, from the highest score down.

    Attributes:
        thresholds: (T,) float32, strictly falling.
        true_positives: (T,) int64, positives with score >= threshold.
        false_positives: (T,) int64, negatives with score >= threshold.
        equal_negatives: (T,) int64, negatives with score == threshold.
    """

    thresholds: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray
    equal_negatives: np.ndarray

    def __getitem__(self, part: slice | np.ndarray) -> ThresholdCounts:
        """A part of the thresholds."""
        return ThresholdCounts(
            self.thresholds[part],
            self.true_positives[part],
            self.false_positives[part],
            self.equal_negatives[part],
        )

    @classmethod
    def concatenate(cls, parts: Iterable[ThresholdCounts]) -> ThresholdCounts:
        """Joins parts of falling thresholds; no parts give four empty arrays."""
        parts = list(parts)
        nothing = np.empty(0, np.int64)
        return cls(
            np.concatenate([np.empty(0, np.float32), *(part.thresholds for part in parts)]),
            np.concatenate([nothing, *(part.true_positives for part in parts)]),
            np.concatenate([nothing, *(part.false_positives for part in parts)]),
            np.concatenate([nothing, *(part.equal_negatives for part in parts)]),
        )


def count_thresholds(positives: np.ndarray, negatives: np.ndarray) -> ThresholdCounts:
    """Counts pixels at every threshold where the recall changes.

    Args:
        positives: (P,) float32 scores of anomalous pixels, rising; or their uint32 keys.
        negatives: (N,) scores or keys of in-distribution pixels, rising.

    Returns:
        Counts whose thresholds have the type of ``positives``.
    """
    thresholds, first = np.unique(positives, return_index=True)
    below = np.searchsorted(negatives, thresholds, side="left")
    up_to = np.searchsorted(negatives, thresholds, side="right")
    return ThresholdCounts(
        thresholds=thresholds[::-1],
        true_positives=(positives.size - first)[::-1],
        false_positives=(negatives.size - below)[::-1],
        equal_negatives=(up_to - below)[::-1],
    )


def falling_thresholds(
    positives: ExactCounts, negatives: ExactCounts
) -> Iterator[ThresholdCounts]:
    """Counts pixels at every threshold from histograms; yields one part a page.

    The pages' borders are fixed, so sums over a page have the same digits however the pixels
    were spread over frames, states and processes.
    """
    anomalous, in_distribution = positives.totals, negatives.totals
    hits_above = positives.total - np.cumsum(anomalous)
    alarms_above = negatives.total - np.cumsum(in_distribution)
    for page in positives.pages()[::-1].tolist():
        lows, counts = positives.entries(page)
        below, equal = negatives.page(page).below_and_equal(lows)
        alarms = alarms_above[page] + in_distribution[page] - below
        yield ThresholdCounts(
            thresholds=from_keys(page_keys(page, lows)[::-1]),
            true_positives=hits_above[page] + np.cumsum(counts[::-1]),
            false_positives=alarms[::-1],
            equal_negatives=equal[::-1],
        )


class Areas:
    """Sums up AP and AUROC over parts of falling thresholds.

    Args:
        positives: Number of anomalous pixels, at least 1.
        negatives: Number of in-distribution pixels, at least 1.
    """

    def __init__(self, positives: int, negatives: int) -> None:
        self._positives = positives
        self._negatives = negatives
        self._hits = 0
        self._precisions: list[float] = []
        self._pairs_won_twice = 0

    def add(self, part: ThresholdCounts) -> None:
        """Adds the next part, whose thresholds lie below all earlier ones."""
        if not part.thresholds.size:
            return
        gained = np.diff(part.true_positives, prepend=self._hits)
        self._hits = int(part.true_positives[-1])
        precision = part.true_positives / (part.true_positives + part.false_positives)
        self._precisions.append(float(np.sum(gained * precision)))
        # Pairs count twice, so that ties stay integers; summing halves keeps them in 64 bits.
        won_twice = 2 * (self._negatives - part.false_positives) + part.equal_negatives
        high, low = np.sum(gained * (won_twice >> 24)), np.sum(gained * (won_twice & 0xFFFFFF))
        self._pairs_won_twice += (int(high) << 24) + int(low)

    def watch(self, parts: Iterable[ThresholdCounts]) -> Iterator[ThresholdCounts]:
        """Adds each part and passes it on."""
        for part in parts:
            self.add(part)
            yield part

    @property
    def average_precision(self) -> float:
        """Sum over thresholds of (recall gained) x precision: step-wise, no trapezoids."""
        return math.fsum(self._precisions) / self._positives

    @property
    def area_under_roc(self) -> float:
        """Probability that a positive scores higher than a negative, ties counting one half."""
        return self._pairs_won_twice / (2 * self._positives * self._negatives)


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
"""By name; the docstrings of the functions below name the public code of each."""


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
    """False positives at the first threshold where ``wanted`` is true.

    With ``>=``: Fishyscapes and SegmentMeIfYouCan (``searchsorted(tpr, 0.95)``). With ``>``:
    DenseHybrid and RbA, which search scikit-learn's ``roc_curve``. Unless told otherwise it leaves
    out points inside straight stretches, which can move theirs where scores are few and tied;
    here every threshold counts.
    """
    return int(near.false_positives[np.argmax(wanted)])


def _nearest(near: ThresholdCounts, positives: int, rate: float) -> int:
    """Hendrycks' ``fpr_and_fdr_at_recall``, which PEBAL uses.

    It walks up from the first threshold with full recall. So of two equally near recalls the
    higher wins, and of the thresholds with the same recall the lowest, which has the most false
    positives.
    """
    # The lowest threshold with a given recall lies just above the next anomalous score.
    last_before = near.false_positives - near.equal_negatives
    hits, alarms = near.true_positives, np.append(last_before[1:], near.false_positives[-1])
    # A threshold of recall 0 exists only if a negative scores above every anomalous pixel.
    if hits[0] / positives > rate and last_before[0] > 0:
        hits, alarms = np.append(0, hits), np.append(last_before[0], alarms)
    distance = np.abs(hits / positives - rate)[::-1]
    return int(alarms[::-1][np.argmin(distance)])


def _interpolated(
    near: ThresholdCounts, reached: np.ndarray, negatives: int, rate: float
) -> float:
    """``fpr_at_95_tpr`` of the package ood-metrics, which SML uses.

    Interpolates between the last threshold with a true-positive rate up to ``rate`` and the first
    above it.
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
        # The threshold after it may be in the next part.
        if above + 1 < near.thresholds.size or near.true_positives[-1] == positives:
            return near[max(above - 2, 0) : above + 2]
        before = near[-3:]
    raise ValueError("the thresholds end before every anomalous pixel is counted")

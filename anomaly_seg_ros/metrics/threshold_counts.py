"""How many pixels lie at or above each anomalous pixel's score, and AP and AUROC from that.

A threshold between two anomalous scores changes no recall, so it is enough to know how many
in-distribution pixels lie above each *anomalous* score. AP and AUROC are scikit-learn's
(``average_precision_score``, ``roc_auc_score``), without ranking every pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from anomaly_seg_ros.metrics.exact_counts import ExactCounts
from anomaly_seg_ros.metrics.score_keys import from_keys


@dataclass(frozen=True)
class ThresholdCounts:
    """What lies at or above each distinct positive score, from the highest score down.

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
        """Joins parts of falling thresholds; without any, four empty arrays."""
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
        negatives: (N,) the same of in-distribution pixels.

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
    """The same from histograms, a page at a time: what all pages together yield is as long.

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
        keys = np.uint32(page << 16) + lows.astype(np.uint32)
        yield ThresholdCounts(
            thresholds=from_keys(keys[::-1]),
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
        """Adds the next part, whose thresholds are below all before."""
        if not part.thresholds.size:
            return
        gained = np.diff(part.true_positives, prepend=self._hits)
        self._hits = int(part.true_positives[-1])
        precision = part.true_positives / (part.true_positives + part.false_positives)
        self._precisions.append(float(np.sum(gained * precision)))
        # Twice the pairs, so that ties stay whole numbers; the halves keep them in 64 bits.
        won_twice = 2 * (self._negatives - part.false_positives) + part.equal_negatives
        high, low = np.sum(gained * (won_twice >> 24)), np.sum(gained * (won_twice & 0xFFFFFF))
        self._pairs_won_twice += (int(high) << 24) + int(low)

    def watch(self, parts: Iterable[ThresholdCounts]) -> Iterator[ThresholdCounts]:
        """Hands the parts on and adds each."""
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

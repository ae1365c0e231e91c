"""Exact AP, AUROC and FPR95 of a per-pixel anomaly score over any number of frames.

The state is how often each float32 score occurs among anomalous and among in-distribution
pixels (:mod:`exact_counts`): no bins, no error, bounded memory. States add up: over frames, bags,
processes and machines, in any order, to the same digits.

Anomalous pixels are the positives, in-distribution pixels the negatives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from anomaly_seg_ros.errors import ImageError
from anomaly_seg_ros.labels import ANOMALY, IN_DISTRIBUTION
from anomaly_seg_ros.metrics.exact_counts import DEFAULT_MEMORY_LIMIT, ExactCounts
from anomaly_seg_ros.metrics.fpr import CONVENTIONS, FIRST_AT_LEAST, fprs_at_tpr
from anomaly_seg_ros.metrics.per_image import FrameFigures, PerImageMeans
from anomaly_seg_ros.metrics.score_keys import (
    HIGHEST_KEY,
    LOWEST_KEY,
    first_key_at_least,
    from_keys,
    to_keys,
)
from anomaly_seg_ros.metrics.threshold_counts import (
    Areas,
    ThresholdCounts,
    count_thresholds,
    falling_thresholds,
)

__all__ = [
    "FPR95_CONVENTION",
    "PixelMetrics",
    "PixelScores",
    "ThresholdCounts",
    "count_thresholds",
]

FPR95_CONVENTION = CONVENTIONS[FIRST_AT_LEAST]


@dataclass(frozen=True)
class PixelMetrics:
    """Pooled figures of one score, as fractions in [0, 1]; NaN where they are not defined.

    Attributes:
        AP: Average precision, the step-wise sum of precision over recall (no trapezoids).
        AUROC: Area under the ROC curve; ties count one half.
        FPR95: See ``fpr95_convention``.
        positives: Number of anomalous pixels.
        negatives: Number of in-distribution pixels.
        fpr95_convention: The definition of FPR95, for reports: four are in public use.
        note: Why figures are NaN; empty when they are defined.
        fpr95: By the names of :data:`fpr.CONVENTIONS`, in all four; ``FPR95`` is one of them.
        per_image: Means of the frames' own figures, or None where frames were not kept apart.
    """

    AP: float
    AUROC: float
    FPR95: float
    positives: int
    negatives: int
    fpr95_convention: str = FPR95_CONVENTION
    note: str = ""
    fpr95: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(CONVENTIONS, float("nan"))
    )
    per_image: PerImageMeans | None = None


class PixelScores:
    """Collects the scores of labelled pixels; exact, mergeable, independent of the order.

    Args:
        memory_limit: Bytes that the counts of either kind of pixels may take before they go to
            temporary files; see :mod:`exact_counts` for what else takes memory.
        spill_folder: Where those files go; the system's temporary folder by default.
        per_image: Whether to keep the figures of each frame, some 500 bytes of them.
    """

    def __init__(
        self,
        memory_limit: int = DEFAULT_MEMORY_LIMIT,
        spill_folder: str | Path | None = None,
        per_image: bool = True,
    ) -> None:
        self._limits = memory_limit, spill_folder
        self.positives = ExactCounts(memory_limit, spill_folder)
        self.negatives = ExactCounts(memory_limit, spill_folder)
        self.frames: list[FrameFigures] | None = [] if per_image else None

    def empty_like(self) -> PixelScores:
        """A collection without pixels and with the same limits."""
        return PixelScores(*self._limits, per_image=self.frames is not None)

    def update(self, score: np.ndarray, mask: np.ndarray, name: str = "") -> None:
        """Adds one frame.

        Args:
            score: (H, W) anomaly score, higher = more anomalous; float32, or what float32 holds
                without loss (float16). Other types are rounded to float32.
            mask: (H, W) uint8: 0 in-distribution, 1 anomaly; pixels of any other value (255 =
                ignore) are dropped.
            name: The frame's name, for its figures and for error messages.

        Raises:
            ImageError: The shapes differ, or a labelled pixel's score is not finite.
        """
        frame = f"frame {name!r}" if name else "frame"
        score, mask = np.asarray(score), np.asarray(mask)
        if score.ndim != 2 or score.shape != mask.shape:
            raise ImageError(
                f"{frame}: score is {score.shape}, mask is {mask.shape}; both must be (H, W)"
            )
        positives = _sorted_keys(score[mask == ANOMALY], frame)
        negatives = _sorted_keys(score[mask == IN_DISTRIBUTION], frame)
        if self.frames is not None:
            self.frames.append(FrameFigures.from_keys(name, positives, negatives))
        self.positives.add(positives)
        self.negatives.add(negatives)

    def merge(self, other: PixelScores) -> None:
        """Adds the pixels of another collection, which stays as it is.

        Where either has not kept its frames apart, the sum has not, either.
        """
        self.positives.merge(other.positives)
        self.negatives.merge(other.negatives)
        if self.frames is not None:
            self.frames = None if other.frames is None else self.frames + other.frames

    def compute(self) -> PixelMetrics:
        """Figures over everything added so far; NaN and a note where a kind of pixel is absent."""
        sizes = self.positives.total, self.negatives.total
        per_image = None if self.frames is None else PerImageMeans.from_frames(self.frames)
        missing = [
            kind
            for kind, size in zip(("anomalous", "in-distribution"), sizes, strict=True)
            if not size
        ]
        if missing:
            note = f"no {' and no '.join(missing)} pixels: AP, AUROC and FPR95 are not defined"
            nan = float("nan")
            return PixelMetrics(nan, nan, nan, *sizes, note=note, per_image=per_image)
        areas = Areas(*sizes)
        parts = areas.watch(self.falling_thresholds())
        fpr95 = fprs_at_tpr(parts, *sizes)
        for _ in parts:
            pass  # what lies below the 95 % is for the areas alone
        return PixelMetrics(
            AP=areas.average_precision,
            AUROC=areas.area_under_roc,
            FPR95=fpr95[FIRST_AT_LEAST],
            positives=sizes[0],
            negatives=sizes[1],
            fpr95=fpr95,
            per_image=per_image,
        )

    def falling_thresholds(self) -> Iterator[ThresholdCounts]:
        """Counts at every distinct positive score, in parts of at most 65,536 thresholds."""
        return falling_thresholds(self.positives, self.negatives)

    def threshold_counts(self) -> ThresholdCounts:
        """The same at once, 28 bytes a distinct positive score; empty arrays without any."""
        return ThresholdCounts.concatenate(self.falling_thresholds())

    def rates_at(self, threshold: float) -> tuple[float, float]:
        """True-positive and false-positive rate of ``score >= threshold``; NaN without pixels."""
        key = np.array([first_key_at_least(threshold)])
        rates = []
        for counts in (self.positives, self.negatives):
            above = counts.total - int(counts.below(key)[0])
            rates.append(above / counts.total if counts.total else float("nan"))
        return rates[0], rates[1]

    def pr_curve(self, points: int = 400) -> tuple[np.ndarray, np.ndarray]:
        """Precision over recall, thinned for plotting.

        Args:
            points: At most this many points, evenly spread over the recall.

        Returns:
            ``(recall, precision)``, float64, recall rising; empty without positives.
        """
        counts = self._thinned(points)
        hits, alarms = counts.true_positives, counts.false_positives
        return hits / max(self.positives.total, 1), hits / (hits + alarms)

    def roc_curve(self, points: int = 400) -> tuple[np.ndarray, np.ndarray]:
        """True-positive rate over false-positive rate, thinned for plotting.

        Returns:
            ``(false_positive_rate, true_positive_rate)``, float64, from (0, 0) to (1, 1); empty
            unless there are positives and negatives.
        """
        positives, negatives = self.positives.total, self.negatives.total
        if not positives or not negatives:
            return np.empty(0), np.empty(0)
        counts = self._thinned(points)
        false_positive_rate = counts.false_positives / negatives
        true_positive_rate = counts.true_positives / positives
        return np.r_[0.0, false_positive_rate, 1.0], np.r_[0.0, true_positive_rate, 1.0]

    def histograms(
        self, bins: int = 80, tail: float = 0.001
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """How the scores of both kinds of pixels are distributed.

        Args:
            bins: Number of bins of equal width.
            tail: The range leaves out this share of either kind at both ends, so that one stray
                pixel does not squeeze the picture; the outermost bins take those pixels in.

        Returns:
            ``(edges (bins + 1,), in_distribution (bins,), anomalous (bins,))``, float64; the
            last two are shares of their kind that sum to 1 (or are 0 where there are none).
        """
        present = [counts for counts in (self.negatives, self.positives) if counts.total]
        low, high = 0.0, 1.0
        if present:
            cut = [int(tail * (counts.total - 1)) for counts in present]
            pairs = list(zip(present, cut, strict=True))
            low = min(_score_at(counts, c) for counts, c in pairs)
            high = max(_score_at(counts, counts.total - 1 - c) for counts, c in pairs)
        if low == high:
            low, high = low - 0.5, high + 0.5
        edges = np.linspace(low, high, bins + 1)
        return edges, _shares(self.negatives, edges), _shares(self.positives, edges)

    def _thinned(self, points: int) -> ThresholdCounts:
        """At most ``points`` thresholds, evenly spread over the recall, ends included.

        All of them where there are no more.
        """
        if self.positives.total <= points:
            return self.threshold_counts()
        kept, every, distinct = [], [], 0
        wanted = np.empty(0)
        for part in self.falling_thresholds():
            if not distinct:
                wanted = np.linspace(part.true_positives[0], self.positives.total, points)
            distinct += part.thresholds.size
            if distinct <= points:
                every.append(part)
            here = int(np.searchsorted(wanted, part.true_positives[-1], side="right"))
            at = np.searchsorted(part.true_positives, wanted[:here])
            wanted = wanted[here:]
            kept.append(part[np.unique(at)])
        return ThresholdCounts.concatenate(every if distinct <= points else kept)


def _sorted_keys(scores: np.ndarray, frame: str) -> np.ndarray:
    """The rising keys of 1-D scores.

    Raises:
        ImageError: Not all are finite.
    """
    keys = to_keys(scores.astype(np.float32, copy=False))
    # NumPy's vectorised sort: the reason for keys of 32 bits.
    keys.sort()
    low, high = np.searchsorted(keys, np.array([LOWEST_KEY, HIGHEST_KEY + 1], np.uint32))
    if bad := keys.size - int(high - low):
        raise ImageError(f"{frame}: {bad} of its labelled pixels' scores are not finite")
    return keys


def _score_at(counts: ExactCounts, rank: int) -> float:
    return float(from_keys(np.array([counts.key_at(rank)], np.uint32))[0])


def _shares(counts: ExactCounts, edges: np.ndarray) -> np.ndarray:
    """Share of the pixels in each bin, everything beyond the ends in the outer bins."""
    inner = counts.below(to_keys(edges[1:-1].astype(np.float32)))
    return np.diff(np.r_[0, inner, counts.total]) / max(counts.total, 1)

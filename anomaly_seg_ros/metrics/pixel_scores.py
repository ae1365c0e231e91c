# SPDX-License-Identifier: Apache-2.0
"""Exact AP, AUROC and FPR95 of a per-pixel anomaly score over any number of frames.

The state is how often each float32 score occurs among anomalous and among in-distribution
pixels (:mod:`exact_counts`): no bins, no error, bounded memory. States add up: over frames, bags,
processes and machines, in any order, to the same digits. Beside the pooled figures it keeps those
of each frame, whose means StreetHazards reports.

Anomalous pixels are the positives, in-distribution pixels the negatives.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from anomaly_seg_ros.errors import ImageError
from anomaly_seg_ros.labels import ANOMALY, IN_DISTRIBUTION
from anomaly_seg_ros.metrics.exact_counts import (
    DEFAULT_MEMORY_LIMIT,
    HIGHEST_KEY,
    LOWEST_KEY,
    ExactCounts,
    first_key_at_least,
    from_keys,
    to_keys,
)
from anomaly_seg_ros.metrics.threshold_counts import (
    CONVENTIONS,
    FIRST_AT_LEAST,
    Areas,
    ThresholdCounts,
    count_thresholds,
    falling_thresholds,
    fprs_at_tpr,
)

_NAN = float("nan")


@dataclass(frozen=True)
class FrameFigures:
    """One frame's figures, as fractions; NaN where a kind of pixel is absent.

    Attributes:
        name: The frame's name; may be empty.
        positives: Number of anomalous pixels.
        negatives: Number of in-distribution pixels.
        AP: Average precision.
        AUROC: Area under the ROC curve.
        FPR95: By convention.
    """

    name: str
    positives: int
    negatives: int
    AP: float = _NAN
    AUROC: float = _NAN
    FPR95: dict[str, float] = field(default_factory=lambda: dict.fromkeys(CONVENTIONS, _NAN))

    @classmethod
    def from_keys(cls, name: str, positives: np.ndarray, negatives: np.ndarray) -> FrameFigures:
        """Measures one frame.

        Args:
            name: The frame's name.
            positives: (P,) uint32 keys of the scores of anomalous pixels, rising.
            negatives: (N,) uint32 keys of in-distribution pixels, rising.
        """
        sizes = positives.size, negatives.size
        if not all(sizes):
            return cls(name, *sizes)
        counts = count_thresholds(positives, negatives)
        areas = Areas(*sizes)
        areas.add(counts)
        return cls(
            name,
            *sizes,
            areas.average_precision,
            areas.area_under_roc,
            fprs_at_tpr([counts], *sizes),
        )

    @property
    def is_defined(self) -> bool:
        """True if the frame has both kinds of pixels."""
        return self.positives > 0 and self.negatives > 0


@dataclass(frozen=True)
class PerImageMeans:
    """Means over the frames that have both kinds of pixels, as fractions; NaN without any.

    Attributes:
        AP: Mean average precision.
        AUROC: Mean area under the ROC curve.
        FPR95: Mean of the default convention.
        fpr95: Means by convention.
        frames: Number of frames in the means.
        left_out: Number of frames that lack a kind of pixel.
    """

    AP: float
    AUROC: float
    FPR95: float
    fpr95: dict[str, float]
    frames: int
    left_out: int

    @classmethod
    def from_frames(cls, frames: Iterable[FrameFigures]) -> PerImageMeans:
        """Averages frames; their order changes no digit."""
        frames = list(frames)
        defined = [frame for frame in frames if frame.is_defined]
        fpr95 = {name: _mean([frame.FPR95[name] for frame in defined]) for name in CONVENTIONS}
        return cls(
            _mean([frame.AP for frame in defined]),
            _mean([frame.AUROC for frame in defined]),
            fpr95[FIRST_AT_LEAST],
            fpr95,
            len(defined),
            len(frames) - len(defined),
        )


def _mean(figures: list[float]) -> float:
    """The mean of the exact sum; NaN without figures."""
    return math.fsum(figures) / len(figures) if figures else _NAN


FPR95_CONVENTION = CONVENTIONS[FIRST_AT_LEAST]


@dataclass(frozen=True)
class PixelMetrics:
    """Pooled figures of one score, as fractions in [0, 1]; NaN where they are not defined.

    Attributes:
        AP: Average precision, the step-wise sum of precision over recall (no trapezoids).
        AUROC: Area under the ROC curve; ties count one half.
        FPR95: False-positive rate at 95 % true-positive rate, by :data:`FPR95_CONVENTION`.
        positives: Number of anomalous pixels.
        negatives: Number of in-distribution pixels.
        note: Why figures are NaN; empty when they are defined.
        fpr95: FPR95 in each of the :data:`CONVENTIONS`; ``FPR95`` is one of them.
        per_image: Means of the frames' own figures, or None if frames were not kept apart.
    """

    AP: float
    AUROC: float
    FPR95: float
    positives: int
    negatives: int
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
        spill_folder: Folder of those files; the system's temporary folder by default.
        per_image: True keeps the figures of each frame, some 500 bytes a frame.
    """

    def __init__(
        self,
        memory_limit: int = DEFAULT_MEMORY_LIMIT,
        spill_folder: str | Path | None = None,
        per_image: bool = True,
    ) -> None:
        self.positives = ExactCounts(memory_limit, spill_folder)
        self.negatives = ExactCounts(memory_limit, spill_folder)
        self.frames: list[FrameFigures] | None = [] if per_image else None

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
        """Adds the pixels of another collection, which is not changed.

        The sum keeps frames apart only if both did.
        """
        self.positives.merge(other.positives)
        self.negatives.merge(other.negatives)
        if self.frames is not None:
            self.frames = None if other.frames is None else self.frames + other.frames

    def compute(self) -> PixelMetrics:
        """Figures over everything added so far; NaN and a note if a kind of pixel is absent."""
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
            pass  # only the areas need the thresholds below the 95 %
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
        """All of them at once, 28 bytes a distinct positive score; empty arrays without any."""
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
        """Distributions of the scores of both kinds of pixels.

        Args:
            bins: Number of bins of equal width.
            tail: The range leaves out this share of either kind at both ends, so that one stray
                pixel does not squeeze the picture; the outermost bins count those pixels.

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
        """At most ``points`` thresholds, evenly spread over the recall, both ends included.

        All of them if there are no more than that.
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
    """Sorts the keys of 1-D scores.

    Raises:
        ImageError: Not all are finite.
    """
    keys = to_keys(scores.astype(np.float32, copy=False))
    # NumPy's sort is vectorised for 32-bit integers: the reason for keys of that size.
    keys.sort()
    low, high = np.searchsorted(keys, np.array([LOWEST_KEY, HIGHEST_KEY + 1], np.uint32))
    if bad := keys.size - int(high - low):
        raise ImageError(f"{frame}: {bad} of its labelled pixels' scores are not finite")
    return keys


def _score_at(counts: ExactCounts, rank: int) -> float:
    return float(from_keys(np.array([counts.key_at(rank)], np.uint32))[0])


def _shares(counts: ExactCounts, edges: np.ndarray) -> np.ndarray:
    """Share of the pixels in each bin; the outer bins count everything beyond the ends."""
    inner = counts.below(to_keys(edges[1:-1].astype(np.float32)))
    return np.diff(np.r_[0, inner, counts.total]) / max(counts.total, 1)

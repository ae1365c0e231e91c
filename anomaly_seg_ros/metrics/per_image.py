"""Figures of single frames and their means, as StreetHazards reports them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from anomaly_seg_ros.metrics.fpr import CONVENTIONS, FIRST_AT_LEAST, fprs_at_tpr
from anomaly_seg_ros.metrics.threshold_counts import Areas, count_thresholds

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
            name: Of the frame.
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
        """Whether the frame has both kinds of pixels."""
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
    """The mean from the exact sum."""
    return math.fsum(figures) / len(figures) if figures else _NAN

# SPDX-License-Identifier: Apache-2.0
"""Checks the calibration of the published [0, 1] score: its threshold and its probabilities.

Both figures come from the exact counts of :class:`PixelScores` after the pass: no threshold,
binning or calibration has to be known beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from anomaly_seg_ros.metrics.exact_counts import ExactCounts, from_keys, page_keys
from anomaly_seg_ros.metrics.pixel_scores import PixelScores

ECE_BINS = 15
ECE_CONVENTION = (
    f"expected calibration error of the [0, 1] score read as the probability that a pixel is "
    f"anomalous: {ECE_BINS} bins of equal width, closed below, the last one also above; mean over "
    f"pixels of |mean score - share of anomalous pixels| of their bin"
)


@dataclass(frozen=True)
class ThresholdCheck:
    """Target and measured rates of a deployed threshold, as fractions.

    Attributes:
        threshold: A pixel is called unknown if score >= threshold.
        measured_tpr: Share of anomalous pixels called unknown; NaN without such pixels.
        measured_fpr: Share of in-distribution pixels called unknown; NaN without such pixels.
        target_tpr: True-positive rate that the threshold was set for, or None.
        target_fpr: False-positive rate that the threshold was set for, or None.
    """

    threshold: float
    measured_tpr: float
    measured_fpr: float
    target_tpr: float | None = None
    target_fpr: float | None = None


@dataclass(frozen=True)
class CalibrationBins:
    """A reliability diagram and its expected calibration error.

    Attributes:
        edges: (B + 1,) float64 from 0 to 1.
        pixels: (B,) int64 labelled pixels in each bin.
        mean_score: (B,) float64, NaN in empty bins.
        anomalous: (B,) float64 share of anomalous pixels, NaN in empty bins.
        error: Expected calibration error; NaN without pixels.
    """

    edges: np.ndarray
    pixels: np.ndarray
    mean_score: np.ndarray
    anomalous: np.ndarray
    error: float


def check_threshold(
    pixels: PixelScores,
    threshold: float,
    target_tpr: float | None = None,
    target_fpr: float | None = None,
) -> ThresholdCheck:
    """Measures the rates at a threshold on the scale of the collected scores."""
    tpr, fpr = pixels.rates_at(threshold)
    return ThresholdCheck(threshold, tpr, fpr, target_tpr, target_fpr)


def calibration_bins(
    pixels: PixelScores,
    to_unit: Callable[[np.ndarray], np.ndarray] | None = None,
    bins: int = ECE_BINS,
) -> CalibrationBins:
    """Sorts all pixels into bins of their score; see :data:`ECE_CONVENTION`.

    Guo et al., "On Calibration of Modern Neural Networks", 2017, eq. 3, for two classes: the score
    is the confidence in "anomalous", whatever the decision.

    Args:
        pixels: Collected scores.
        to_unit: Maps raw scores to [0, 1], such as :meth:`ScoreCalibration.to_unit`; None if the
            collected scores are on that scale.
        bins: Number of bins.

    Raises:
        ValueError: A score lies outside [0, 1].
    """
    positives, positive_sums = _binned(pixels.positives, to_unit, bins)
    negatives, negative_sums = _binned(pixels.negatives, to_unit, bins)
    total = positives + negatives
    with np.errstate(invalid="ignore"):
        mean_score = (positive_sums + negative_sums) / total
        anomalous = positives / total
    filled = total > 0
    gaps = total[filled] * np.abs(mean_score - anomalous)[filled]
    error = math.fsum(gaps) / int(total.sum()) if filled.any() else float("nan")
    return CalibrationBins(np.linspace(0, 1, bins + 1), total, mean_score, anomalous, error)


def _binned(
    counts: ExactCounts, to_unit: Callable[[np.ndarray], np.ndarray] | None, bins: int
) -> tuple[np.ndarray, np.ndarray]:
    """Number and sum of the scores in each bin: (B,) int64 and (B,) float64."""
    edges = np.linspace(0, 1, bins + 1)
    number = np.zeros(bins, np.int64)
    sums: list[np.ndarray] = [np.zeros(bins)]
    for page, lows, times in counts.all_entries():
        scores = from_keys(page_keys(page, lows))
        unit = (scores if to_unit is None else to_unit(scores)).astype(np.float64)
        if unit.min() < 0 or unit.max() > 1:
            raise ValueError("a calibration error needs scores in [0, 1]")
        place = np.minimum(np.searchsorted(edges, unit, side="right") - 1, bins - 1)
        np.add.at(number, place, times)
        sums.append(np.bincount(place, weights=times * unit, minlength=bins))
    # A page's sum does not depend on the order of the pixels, and fsum adds pages exactly.
    return number, np.array([math.fsum(column) for column in np.stack(sums, 1)])

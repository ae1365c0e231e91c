# SPDX-License-Identifier: Apache-2.0
"""How far a pooled figure would move on other images of the same kind: resampling over images.

The pixels of an image are anything but independent, so whole images are drawn, with replacement
(Efron & Tibshirani 1993, chapter 8). A drawn image counts as often as it was drawn: a replicate's
pooled histogram is weights (R, n) times counts (n, m), and its figures come from that.
"""

from __future__ import annotations

import numpy as np

FIGURES = ("AP", "AUROC", "FPR95")
# Elements of one array of replicates x bins: 32 MiB of float64.
_CHUNK = 1 << 22


def draw_images(images: int, replicates: int, seed: int) -> np.ndarray:
    """Draws how often each image is in each replicate.

    Args:
        images: Number of images, at least 1.
        replicates: Number of replicates.
        seed: The same numbers give the same draws.

    Returns:
        (replicates, images) float64 whole numbers; each row sums to ``images``.
    """
    generator = np.random.default_rng(seed)
    shares = np.full(images, 1 / images)
    return generator.multinomial(images, shares, size=replicates).astype(np.float64)


def pooled_figures(
    weights: np.ndarray, positives: np.ndarray, negatives: np.ndarray, rate: float = 0.95
) -> dict[str, np.ndarray]:
    """Figures of weighted, pooled images from binned scores.

    For AP and AUROC all scores of a bin are equal. FPR95 is read inside its bin, as if both kinds
    of pixels were spread evenly there: to take the whole bin would add up to two points.

    Args:
        weights: (R, n) float64, how often each image counts.
        positives: (n, m) anomalous pixels of each image in each bin, scores rising with m.
        negatives: (n, m) in-distribution pixels of each image in each bin.
        rate: True-positive rate at which the false-positive rate is read.

    Returns:
        AP, AUROC and FPR95 as fractions, each (R,) float64; NaN where a replicate lacks a kind of
        pixel.
    """
    # float64 holds whole numbers up to 2^53, so the products are exact. Falling thresholds.
    hits = np.ascontiguousarray(positives[:, ::-1], np.float64)
    alarms = np.ascontiguousarray(negatives[:, ::-1], np.float64)
    rows = max(1, _CHUNK // max(1, hits.shape[1]))
    parts = [
        _figures(
            weights[start : start + rows] @ hits, weights[start : start + rows] @ alarms, rate
        )
        for start in range(0, len(weights), rows)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in FIGURES}


def _figures(hits: np.ndarray, alarms: np.ndarray, rate: float) -> dict[str, np.ndarray]:
    """Figures of (R, m) histograms of both kinds over falling scores."""
    true_positives, false_positives = hits.cumsum(axis=1), alarms.cumsum(axis=1)
    positives, negatives = true_positives[:, -1], false_positives[:, -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = true_positives / (true_positives + false_positives)
        # Before the first pixel there is no precision, and nothing to weight it with.
        precision[hits == 0] = 0
        average_precision = (hits * precision).sum(axis=1) / positives
        beaten = negatives[:, None] - false_positives + alarms / 2
        area = (hits * beaten).sum(axis=1) / (positives * negatives)
        first = np.argmax(true_positives / positives[:, None] >= rate, axis=1)
        row = np.arange(len(first))
        # The part of the first bin to reach the rate that is below the threshold.
        surplus = (true_positives[row, first] - rate * positives) / hits[row, first]
        threshold_alarms = false_positives[row, first] - surplus * alarms[row, first]
        false_positive_rate = threshold_alarms / negatives
    defined = (positives > 0) & (negatives > 0)
    values = (average_precision, area, false_positive_rate)
    return {
        name: np.where(defined, value, np.nan) for name, value in zip(FIGURES, values, strict=True)
    }


def weighted_means(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Means of a per-image figure over the drawn images.

    Args:
        weights: (R, n) float64, how often each image counts.
        values: (n,) float64; images where it is NaN are in no mean.

    Returns:
        (R,) float64; NaN where no drawn image has the figure.
    """
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return (weights @ np.where(defined, values, 0.0)) / (weights @ defined.astype(np.float64))


def interval(samples: np.ndarray, confidence: float) -> tuple[float, float]:
    """Percentile interval of the samples that are not NaN; NaN without any.

    Args:
        samples: (R,) float64.
        confidence: Inside (0, 1), such as 0.95.
    """
    samples = samples[np.isfinite(samples)]
    if not samples.size:
        return float("nan"), float("nan")
    tail = (1 - confidence) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return float(low), float(high)

# SPDX-License-Identifier: Apache-2.0
"""Decision thresholds read off exact counts; a pixel is an alarm if score >= threshold."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from anomaly_seg_ros.errors import ImageError, ParameterError
from anomaly_seg_ros.metrics.exact_counts import ExactCounts, first_key_at_least, from_keys
from anomaly_seg_ros.metrics.pixel_scores import PixelScores


class BestF1(NamedTuple):
    """The best pixel-wise F1 of a score and the threshold that reaches it."""

    threshold: float
    f1: float


def best_f1_threshold(pixels: PixelScores) -> BestF1:
    """The threshold with the highest pixel F1, 2 TP / (2 TP + FP + FN); the highest of several.

    SegmentMeIfYouCan takes its components at this threshold, searched among a few hundred bin
    edges an image. Here every distinct score is tried: F1 can only peak at the score of an
    anomalous pixel, because lowering a threshold past in-distribution pixels alone adds nothing
    but false positives.

    Raises:
        ParameterError: There is no anomalous pixel.
    """
    positives = pixels.positives.total
    best = BestF1(math.nan, -1.0)
    for part in pixels.falling_thresholds():
        hits = part.true_positives
        # 2 TP + FP + FN = alarms + anomalous pixels
        f1 = 2 * hits / (hits + part.false_positives + positives)
        peak = int(np.argmax(f1))
        if f1[peak] > best.f1:
            best = BestF1(float(part.thresholds[peak]), float(f1[peak]))
    if not positives:
        raise ParameterError("no anomalous pixels: there is no threshold with the best F1")
    return best


def threshold_at_tpr(positives: ExactCounts, rate: float = 0.95, strict: bool = False) -> float:
    """The highest threshold at which the share of detected anomalous pixels reaches ``rate``.

    Args:
        positives: Scores of the anomalous pixels, :attr:`PixelScores.positives`.
        rate: True-positive rate, in (0, 1].
        strict: True demands more than ``rate`` (as DenseHybrid's code does), not at least it.

    Raises:
        ParameterError: There is no anomalous pixel, or no threshold reaches the rate.
    """
    total = positives.total
    if not total:
        raise ParameterError(f"no anomalous pixels: no threshold detects {rate:g} of them")
    if not 0 < rate <= 1 or (strict and rate == 1):
        relation = "more than" if strict else "at least"
        raise ParameterError(f"rate: no threshold detects {relation} {rate:g} of the anomalies")
    # Rounding may put rate x total on either side of an integer; the ratio itself decides.
    detected = max(math.floor(rate * total) - 1, 1)
    while detected / total < rate or (strict and detected / total == rate):
        detected += 1
    return _score(positives.key_at(total - detected))


def to_float32(threshold: float) -> float:
    """The smallest float32 that is not below ``threshold``.

    Comparing float32 scores with it equals comparing them with the float64, however a NumPy
    version treats mixed types.
    """
    return _score(first_key_at_least(threshold))


def alarms(
    score: np.ndarray, labelled: np.ndarray, threshold: float, name: str = ""
) -> np.ndarray:
    """Finds the labelled pixels that a score calls anomalous.

    Args:
        score: (H, W) floating point, higher = more anomalous; taken as float32.
        labelled: (H, W) bool; only these pixels can be alarms.
        threshold: On the score's scale.
        name: The frame's name, for error messages.

    Returns:
        (H, W) bool.

    Raises:
        ImageError: The shapes differ, or a labelled pixel's score is not finite.
    """
    frame = f"frame {name!r}" if name else "frame"
    if score.ndim != 2 or score.shape != labelled.shape:
        raise ImageError(
            f"{frame}: score is {score.shape}, mask is {labelled.shape}; both must be (H, W)"
        )
    bad = int(np.count_nonzero(labelled & ~np.isfinite(score)))
    if bad:
        raise ImageError(f"{frame}: {bad} of its labelled pixels' scores are not finite")
    return labelled & (score.astype(np.float32, copy=False) >= np.float32(to_float32(threshold)))


def _score(key: int) -> float:
    return float(from_keys(np.array([key], np.uint32))[0])

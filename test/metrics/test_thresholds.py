# SPDX-License-Identifier: Apache-2.0
"""Decision thresholds against trying every value."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from anomaly_seg_ros.errors import ImageError, ParameterError
from anomaly_seg_ros.metrics.pixel_scores import PixelScores
from anomaly_seg_ros.metrics.thresholds import (
    alarms,
    best_f1_threshold,
    threshold_at_tpr,
    to_float32,
)

PIXELS = st.lists(
    st.tuples(st.sampled_from([-2.0, -0.5, 0.0, 0.1, 0.25, 3.0, 7.5]), st.sampled_from([0, 1])),
    min_size=1,
    max_size=50,
).filter(lambda pixels: any(label for _, label in pixels))


def pixels_of(score: np.ndarray, mask: np.ndarray) -> PixelScores:
    pixels = PixelScores()
    pixels.update(score[None].astype(np.float32), mask[None].astype(np.uint8))
    return pixels


@given(PIXELS)
@settings(max_examples=100, deadline=None)
def test_no_threshold_has_a_better_f1(pixels: list[tuple[float, int]]) -> None:
    score, mask = (np.array(column) for column in zip(*pixels, strict=True))
    score = score.astype(np.float32)
    best = best_f1_threshold(pixels_of(score, mask))
    tried = {float(t): f1_score(mask, score >= t, zero_division=0) for t in np.unique(score)}
    assert best.f1 == pytest.approx(max(tried.values()), abs=1e-12)
    assert tried[best.threshold] == pytest.approx(best.f1, abs=1e-12)
    winners = [t for t, f1 in tried.items() if f1 > best.f1 - 1e-12 and mask[score == t].any()]
    assert best.threshold == max(winners)


@given(PIXELS, st.sampled_from([0.05, 0.5, 0.8, 0.95, 1.0]), st.booleans())
@settings(max_examples=200, deadline=None)
def test_threshold_at_tpr_is_the_highest_that_does(
    pixels: list[tuple[float, int]], rate: float, strict: bool
) -> None:
    score, mask = (np.array(column) for column in zip(*pixels, strict=True))
    anomalous = score[mask == 1].astype(np.float32)
    enough = [
        float(t)
        for t in anomalous
        if ((anomalous >= t).mean() > rate if strict else (anomalous >= t).mean() >= rate)
    ]
    positives = pixels_of(score, mask).positives
    if enough:
        assert threshold_at_tpr(positives, rate, strict) == max(enough)
    else:
        with pytest.raises(ParameterError, match="no threshold detects more than"):
            threshold_at_tpr(positives, rate, strict)


def test_nineteen_of_twenty_is_ninety_five_percent() -> None:
    positives = pixels_of(np.arange(20), np.ones(20)).positives
    assert threshold_at_tpr(positives) == 1.0
    assert threshold_at_tpr(positives, strict=True) == 0.0
    with pytest.raises(ParameterError, match=r"rate: no threshold detects at least 1\.5"):
        threshold_at_tpr(positives, 1.5)


def test_no_anomalous_pixel_is_an_error() -> None:
    pixels = pixels_of(np.arange(5), np.zeros(5))
    with pytest.raises(ParameterError, match="no anomalous pixels: there is no threshold"):
        best_f1_threshold(pixels)
    with pytest.raises(ParameterError, match=r"no anomalous pixels: no threshold detects 0\.95"):
        threshold_at_tpr(pixels.positives)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6, width=32) | st.just(float(np.float32(0.1))))
def test_float32_comparisons_equal_exact_ones(threshold: float, score: float) -> None:
    for t in (threshold, score, float(np.nextafter(score, np.inf))):
        assert (score >= to_float32(t)) == (score >= t)


def test_alarms_only_on_labelled_pixels() -> None:
    score = np.array([[0.5, 1.0, np.nan, 2.0]], np.float16)
    labelled = np.array([[True, True, False, False]])
    np.testing.assert_array_equal(alarms(score, labelled, 1.0), [[False, True, False, False]])
    with pytest.raises(ImageError, match=r"frame 'x': 1 of its labelled"):
        alarms(score, np.ones_like(labelled), 1.0, "x")
    with pytest.raises(ImageError, match=r"score is \(1, 4\), mask is \(4, 1\)"):
        alarms(score, labelled.T, 1.0)

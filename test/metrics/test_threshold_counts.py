# SPDX-License-Identifier: Apache-2.0
"""The four conventions of FPR95 against a search over every threshold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from anomaly_seg_ros.metrics.threshold_counts import (
    CONVENTIONS,
    FIRST_ABOVE,
    FIRST_AT_LEAST,
    INTERPOLATED,
    NEAREST,
    count_thresholds,
    fprs_at_tpr,
)

Pixels = list[tuple[int, bool]]

many_pixels = st.lists(
    st.tuples(st.integers(0, 12), st.booleans()), min_size=2, max_size=80
).filter(lambda pixels: len({label for _, label in pixels}) == 2)


def split(pixels: Pixels) -> tuple[np.ndarray, np.ndarray]:
    positives = np.array(sorted(score for score, label in pixels if label), np.uint32)
    negatives = np.array(sorted(score for score, label in pixels if not label), np.uint32)
    return positives, negatives


def figures(pixels: Pixels, rate: float = 0.95) -> dict[str, float]:
    positives, negatives = split(pixels)
    counts = count_thresholds(positives, negatives)
    return fprs_at_tpr([counts], positives.size, negatives.size, rate)


def reference(pixels: Pixels, rate: float) -> dict[str, float]:
    """By walking down every distinct score, of both kinds of pixels."""
    positives, negatives = split(pixels)
    points = []
    for threshold in sorted({score for score, _ in pixels}, reverse=True):
        recall = np.count_nonzero(positives >= threshold) / positives.size
        points.append((recall, np.count_nonzero(negatives >= threshold) / negatives.size))
        if recall == 1:
            break
    nearest = min(abs(recall - rate) for recall, _ in points)
    as_near = [point for point in points if abs(point[0] - rate) == nearest]
    truth = np.r_[np.ones(positives.size), np.zeros(negatives.size)]
    fpr, tpr, _ = roc_curve(truth, np.r_[positives, negatives])
    return {
        FIRST_AT_LEAST: next(fpr for recall, fpr in points if recall >= rate),
        FIRST_ABOVE: next(fpr for recall, fpr in points if recall > rate),
        NEAREST: as_near[-1][1],
        INTERPOLATED: np.interp(rate, tpr, fpr),
    }


@pytest.mark.slow
@given(many_pixels, st.sampled_from([0.95, 0.5, 0.1, 1 / 3, 0.999]))
@settings(max_examples=400, deadline=None)
def test_every_convention_on_any_pixels(pixels: Pixels, rate: float) -> None:
    assert figures(pixels, rate) == pytest.approx(reference(pixels, rate), abs=1e-12)


@given(many_pixels, st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_parts_give_what_the_whole_gives(pixels: Pixels, size: int) -> None:
    positives, negatives = split(pixels)
    counts = count_thresholds(positives, negatives)
    parts = [counts[start : start + size] for start in range(0, counts.thresholds.size, size)]
    assert fprs_at_tpr(parts, positives.size, negatives.size) == figures(pixels)


def test_they_are_far_apart_where_anomalous_pixels_are_few() -> None:
    # Twenty anomalous scores, so that 95 % are the first 19; ten others between neighbours.
    positives = [(3 * place, True) for place in range(1, 21)]
    negatives = [(4, False)] * 10 + [(1, False)] * 80 + [(7, False)] * 10
    measured = figures(positives + negatives)
    assert measured == {
        FIRST_AT_LEAST: 0.10,  # at score 6: those at 7
        FIRST_ABOVE: 0.20,  # at score 3: those at 4, too
        NEAREST: 0.20,  # still 95 % at score 4
        INTERPOLATED: 0.20,  # where the curve leaves 95 %
    }


def test_one_anomalous_pixel() -> None:
    measured = figures([(5, True), (6, False), (5, False), (4, False), (1, False)])
    assert measured[FIRST_AT_LEAST] == measured[FIRST_ABOVE] == measured[NEAREST] == 0.5
    # From (0, 1/4) to (1, 2/4).
    assert measured[INTERPOLATED] == pytest.approx(0.25 + 0.95 * 0.25)


def test_every_convention_has_a_sentence_for_reports() -> None:
    assert figures([(1, True), (0, False)]).keys() == CONVENTIONS.keys()
    assert ">= 0.95" in CONVENTIONS[FIRST_AT_LEAST]


@pytest.mark.parametrize("rate", [0, 1, -0.5, 95])
def test_refuses_a_rate_that_is_none(rate: float) -> None:
    with pytest.raises(ValueError, match="outside"):
        figures([(1, True), (0, False)], rate)

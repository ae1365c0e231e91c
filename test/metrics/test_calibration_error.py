# SPDX-License-Identifier: Apache-2.0
"""Reliability of the [0, 1] score and of a deployed threshold."""

from __future__ import annotations

import numpy as np
import pytest

from anomaly_seg_ros.calibration import RateTable, ScoreCalibration
from anomaly_seg_ros.metrics.calibration_error import (
    ECE_BINS,
    ECE_CONVENTION,
    calibration_bins,
    check_threshold,
)
from anomaly_seg_ros.metrics.pixel_scores import PixelScores


def collect(score: np.ndarray, truth: np.ndarray, frames: int = 1) -> PixelScores:
    pixels = PixelScores()
    for part, labels in zip(
        np.array_split(score, frames), np.array_split(truth, frames), strict=True
    ):
        pixels.update(part[None].astype(np.float32), labels[None].astype(np.uint8))
    return pixels


def slow_error(unit: np.ndarray, truth: np.ndarray, bins: int) -> float:
    """A bin at a time, from the pixels."""
    error = 0.0
    for place in range(bins):
        low, high = place / bins, (place + 1) / bins
        inside = (unit >= low) & ((unit < high) | (place == bins - 1))
        if inside.any():
            error += inside.sum() * abs(unit[inside].mean() - truth[inside].mean())
    return error / unit.size


@pytest.mark.parametrize("bins", [1, 10, ECE_BINS])
@pytest.mark.parametrize("levels", [0, 20])
def test_error_agrees_with_one_over_the_pixels(bins: int, levels: int) -> None:
    rng = np.random.default_rng(bins)
    unit = rng.beta(0.5, 2, 5000).astype(np.float32)
    unit[:3] = [0, 1, 0.5]
    if levels:
        unit = np.round(unit * levels) / np.float32(levels)
    truth = rng.random(5000) < unit**2
    expected = slow_error(unit.astype(np.float64), truth, bins)
    found = calibration_bins(collect(unit, truth, 3), bins=bins)
    assert found.error == pytest.approx(expected, abs=1e-12)
    assert found.pixels.sum() == 5000
    assert found.edges.size == bins + 1


def test_a_calibrated_score_has_no_error_and_an_overconfident_one_has() -> None:
    rng = np.random.default_rng(1)
    unit = rng.random(200_000)
    truth = rng.random(200_000) < unit
    assert calibration_bins(collect(unit, truth)).error < 0.01
    pushed = np.where(unit > 0.5, 0.5 + unit / 2, unit / 2)
    assert calibration_bins(collect(pushed, truth)).error > 0.1


def test_raw_scores_are_mapped_afterwards() -> None:
    table = RateTable((0.0, 1.0), (1.0, 0.0))
    calibration = ScoreCalibration(threshold=-2.0, scale=1.5, inlier_rates=table)
    rng = np.random.default_rng(2)
    raw = rng.normal(-3, 2, 3000).astype(np.float32)
    truth = rng.random(3000) < 0.2
    mapped = calibration_bins(collect(raw, truth), calibration.to_unit)
    direct = calibration_bins(collect(calibration.to_unit(raw), truth))
    assert mapped.error == pytest.approx(direct.error, abs=1e-12)
    np.testing.assert_array_equal(mapped.pixels, direct.pixels)


def test_sharding_changes_no_digit() -> None:
    rng = np.random.default_rng(3)
    unit, truth = rng.random(4000), rng.random(4000) < 0.3
    whole = calibration_bins(collect(unit, truth))
    order = rng.permutation(4000)
    parts = [collect(unit[part], truth[part], 2) for part in np.array_split(order, 5)]
    for part in parts[1:]:
        part.merge(parts[0])
        parts[0] = part
    again = calibration_bins(parts[0])
    assert again.error == whole.error
    np.testing.assert_array_equal(again.mean_score, whole.mean_score)


def test_scores_off_the_scale_are_refused_and_nothing_is_nan() -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        calibration_bins(collect(np.array([0.5, 1.5]), np.array([0, 1])))
    assert np.isnan(calibration_bins(PixelScores()).error)
    assert str(ECE_BINS) in ECE_CONVENTION


def test_measured_rates_at_a_threshold() -> None:
    score = np.array([0.1, 0.5, 0.5, 0.9, 0.4, 0.5, 0.6, 0.7])
    truth = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    check = check_threshold(collect(score, truth), 0.5, target_tpr=0.95)
    assert (check.measured_tpr, check.measured_fpr) == (0.75, 0.75)
    assert (check.target_tpr, check.target_fpr) == (0.95, None)
    # 0.7 in float32 lies below 0.7.
    assert check_threshold(collect(score, truth), 0.7).measured_tpr == 0
    only_known = collect(score, np.zeros(8))
    assert np.isnan(check_threshold(only_known, 0.5).measured_tpr)
    assert check_threshold(only_known, -1e300).measured_fpr == 1
    assert check_threshold(only_known, 1e300).measured_fpr == 0

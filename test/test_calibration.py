# SPDX-License-Identifier: Apache-2.0
"""The map to [0, 1] and the thresholds for target rates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from anomaly_seg_ros.calibration import RateTable, ScoreCalibration
from anomaly_seg_ros.errors import ParameterError

TABLE = RateTable((0.0, 1.0, 2.0), (0.5, 0.1, 0.01))


@pytest.fixture
def calibration() -> ScoreCalibration:
    return ScoreCalibration(threshold=-4.0, scale=2.5, inlier_rates=TABLE)


def test_threshold_maps_to_one_half(calibration: ScoreCalibration) -> None:
    assert calibration.to_unit(np.float32([-4.0]))[0] == 0.5


def test_follows_the_formula(calibration: ScoreCalibration) -> None:
    raw = np.linspace(-60, 60, 1001).astype(np.float32).reshape(7, 143)
    z = (raw.astype(np.float64) + 4.0) / 2.5
    unit = calibration.to_unit(raw)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(unit, 0.5 * (1 + z / (1 + abs(z))), atol=1e-7)
    assert unit.min() > 0
    assert unit.max() < 1


@pytest.mark.parametrize("shape", [(), (1,), (300, 511), (2**16,), (2**16 + 1,), (0,)])
def test_blocks_follow_the_formula_in_float64(
    calibration: ScoreCalibration, shape: tuple[int, ...]
) -> None:
    raw = np.random.default_rng(1).normal(-4, 20, shape).astype(np.float32)
    kept = raw.copy()
    z = (raw.astype(np.float64) + 4.0) / 2.5
    unit = calibration.to_unit(raw)
    assert unit.shape == shape
    np.testing.assert_allclose(unit, 0.5 * (1 + z / (1 + abs(z))), rtol=0, atol=2e-7)
    np.testing.assert_array_equal(raw, kept)


def test_any_strides(calibration: ScoreCalibration) -> None:
    raw = np.random.default_rng(2).normal(-4, 20, (300, 511)).astype(np.float32)
    for view in (raw.T, raw[::2, 1::3], np.asfortranarray(raw)):
        np.testing.assert_array_equal(calibration.to_unit(view), calibration.to_unit(view.copy()))


@given(threshold=st.floats(-50, 50), scale=st.floats(1e-2, 50), raw=st.floats(-1e4, 1e4, width=32))
def test_the_same_bits_on_the_device(threshold: float, scale: float, raw: float) -> None:
    """Whoever thresholds the published map must find the mask that the device made."""
    calibration = ScoreCalibration(threshold, scale, TABLE)
    values = raw + np.linspace(-3 * scale, 3 * scale, 1003).astype(np.float32)
    on_device = calibration.to_unit_on_device(torch.from_numpy(values)).numpy()
    np.testing.assert_array_equal(on_device, calibration.to_unit(values))


def test_far_tails_do_not_saturate(calibration: ScoreCalibration) -> None:
    raw = np.arange(-300, 300, dtype=np.float32)
    assert (np.diff(calibration.to_unit(raw)) > 0).all()


def test_average_precision_is_kept(calibration: ScoreCalibration) -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(200_000) < 0.01
    raw = (rng.normal(-9, 3, labels.size) + 4 * labels).astype(np.float32)
    before = average_precision_score(labels, raw)
    after = average_precision_score(labels, calibration.to_unit(raw))
    assert after == pytest.approx(before, abs=1e-6)


def test_rate_table_matches_the_sample() -> None:
    scores = np.random.default_rng(0).normal(size=100_000)
    table = RateTable.from_scores(scores, (0.01, 0.5, 0.1))
    assert table.rates == (0.5, 0.1, 0.01)
    for rate in (0.5, 0.1, 0.05, 0.01):
        measured = (scores >= table.threshold_for(rate)).mean()
        assert measured == pytest.approx(rate, abs=0.02)


@pytest.mark.parametrize("rate", [0.9, 0.001])
def test_rates_outside_the_table_are_refused(rate: float) -> None:
    with pytest.raises(ParameterError, match="calibrated range"):
        TABLE.threshold_for(rate)


def test_target_tpr_needs_unknown_objects(calibration: ScoreCalibration) -> None:
    with pytest.raises(ParameterError, match="target_tpr"):
        calibration.threshold_for_tpr(0.95)


@pytest.mark.parametrize(("threshold", "scale"), [(np.nan, 1.0), (0.0, 0.0), (0.0, -1.0)])
def test_bad_constants_are_refused(threshold: float, scale: float) -> None:
    with pytest.raises(ValueError, match="bad calibration"):
        ScoreCalibration(threshold, scale, TABLE)

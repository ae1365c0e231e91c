# SPDX-License-Identifier: Apache-2.0
"""The score in fewer bytes: what is lost, what is not, and the node that publishes it."""

from __future__ import annotations

import numpy as np
import pytest
from detector_harness import array_of, street

from anomaly_seg_ros.ros.score_encoding import SCORE_ENCODINGS, decode_score, encode_score

FULL_SCALE = {"mono16": 65535, "mono8": 255}
TYPES = {"mono16": np.uint16, "mono8": np.uint8}


def scores(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, np.float32)


def test_the_default_is_the_score_itself():
    score = scores(5, 7)
    assert encode_score(score, "32FC1") is score
    assert decode_score(score, "32FC1") is score
    assert set(SCORE_ENCODINGS) == {"32FC1", *FULL_SCALE}


@pytest.mark.parametrize("encoding", FULL_SCALE)
def test_a_score_comes_back_but_for_half_a_step(encoding):
    full_scale = FULL_SCALE[encoding]
    score = scores(301, 203)  # no multiple of a vector register
    values = encode_score(score, encoding)
    assert (values.dtype, values.shape) == (TYPES[encoding], score.shape)
    exact = score.astype(np.float64) * full_scale
    # The product is rounded to float32 before it is rounded to a whole number.
    np.testing.assert_allclose(values, exact, rtol=0, atol=0.5 + full_scale * 2**-24)
    back = decode_score(values, encoding)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, score, rtol=0, atol=0.5 / full_scale + 2e-7)


@pytest.mark.parametrize("encoding", FULL_SCALE)
def test_every_value_comes_back_exactly(encoding):
    values = np.arange(FULL_SCALE[encoding] + 1, dtype=TYPES[encoding]).reshape(16, -1)
    np.testing.assert_array_equal(encode_score(decode_score(values, encoding), encoding), values)


@pytest.mark.parametrize("encoding", FULL_SCALE)
def test_the_upper_half_of_the_values_is_the_calibrated_mask(encoding):
    half = np.float32(0.5)
    near = half + np.arange(-2000, 2000, dtype=np.float32) * np.float32(2**-25)
    below = np.nextafter(half, np.float32(0))
    score = np.sort(np.r_[near, below, half, 0, 1].astype(np.float32)).reshape(4, -1)
    values = encode_score(score, encoding).ravel()
    assert (np.diff(values.astype(int)) >= 0).all()
    assert values[[0, -1]].tolist() == [0, FULL_SCALE[encoding]]
    np.testing.assert_array_equal(values > FULL_SCALE[encoding] // 2, score.ravel() >= half)


@pytest.mark.parametrize("encoding", FULL_SCALE)
def test_no_number_is_known_as_in_the_mask(encoding):
    score = scores(9, 33)
    score[::2] = np.nan
    values = encode_score(score, encoding)
    assert not values[::2].any()
    np.testing.assert_array_equal(values[1::2], encode_score(score[1::2].copy(), encoding))


@pytest.mark.ros
def test_the_node_publishes_each_encoding(start_detector, segmenter):
    frame = street(48, 80)
    calibration = segmenter.metadata.calibration["energy"]
    raw = segmenter.predict(frame, scores=("energy",)).scores["energy"]
    score = calibration.to_unit(raw)
    detector = start_detector(score_method="energy", ood_score_encoding="mono16")
    detector.listen("ood_score", "open_set_mask")
    detector.wait_connected()
    for second, encoding in enumerate(("mono16", "mono8", "32FC1"), 1):
        # While active: the next frame has it.
        assert detector.set_parameters(ood_score_encoding=encoding) == (True, "")
        detector.segment(frame, float(second))
        message = detector.wait_for("ood_score", float(second))
        assert message.encoding == encoding
        assert len(message.data) == 48 * 80 * np.dtype(SCORE_ENCODINGS[encoding][0]).itemsize
        step = 0.5 / SCORE_ENCODINGS[encoding][1] if encoding in FULL_SCALE else 0.0
        found = decode_score(array_of(message), encoding)
        np.testing.assert_allclose(found, score, rtol=0, atol=step + 2e-7)
        mask = array_of(detector.wait_for("open_set_mask", float(second)))
        np.testing.assert_array_equal(mask > 0, score >= 0.5)
    accepted, reason = detector.set_parameters(ood_score_encoding="mono32")
    assert not accepted
    assert "'ood_score_encoding' must be one of 32FC1, mono16, mono8, not 'mono32'" in reason

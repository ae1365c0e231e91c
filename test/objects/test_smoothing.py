# SPDX-License-Identifier: Apache-2.0
"""The mean over time against its formula, and where it must not be taken."""

from __future__ import annotations

import numpy as np
import pytest

from anomaly_seg_ros.errors import ImageError, ParameterError
from anomaly_seg_ros.objects.smoothing import ScoreSmoother, SmoothingRule

RNG = np.random.default_rng(0)
SCORES = RNG.random((12, 24, 40), np.float32)
STILL = np.full((24, 40, 3), 100, np.uint8)


def smoothed(frames: list[tuple[np.ndarray, np.ndarray, float]], **rule: float) -> list:
    smoother = ScoreSmoother(SmoothingRule(**{"time_constant_s": 0.2, **rule}))
    return [smoother.update(*frame) for frame in frames]


def test_mean_of_a_still_scene_weighs_frames_by_their_age() -> None:
    times = np.cumsum([0.0, 0.1, 0.05, 0.2, 0.1, 0.1, 0.3, 0.0, 0.1, 0.1, 0.1, 0.1])
    found = smoothed([(s, STILL, t) for s, t in zip(SCORES, times, strict=True)])
    # Written out: a frame weighs what the frames after it have left of it.
    kept = np.exp(-np.diff(times) / 0.2)
    for last in range(len(times)):
        own = np.concatenate([[1.0], 1 - kept[:last]])
        later = np.array([np.prod(kept[i:last]) for i in range(last + 1)])
        expected = np.tensordot(own * later, SCORES[: last + 1].astype(np.float64), 1)
        np.testing.assert_allclose(found[last], expected, atol=1e-6)


def test_twice_the_frames_make_the_same_mean() -> None:
    once = smoothed([(SCORES[0], STILL, 0.0), (SCORES[1], STILL, 0.2)])
    twice = smoothed([(SCORES[0], STILL, 0.0), *((SCORES[1], STILL, t) for t in (0.1, 0.2))])
    np.testing.assert_allclose(once[-1], twice[-1], atol=1e-6)


def test_only_the_newest_frame_counts_where_something_moves() -> None:
    moved = STILL.copy()
    moved[:, :16] = 160
    second = smoothed([(SCORES[0], STILL, 0.0), (SCORES[1], moved, 0.1)])[1]
    np.testing.assert_allclose(second[:, :10], SCORES[1, :, :10], atol=1e-6)
    weight = 1 - np.exp(-0.5)
    mean = SCORES[0] + weight * (SCORES[1] - SCORES[0])
    np.testing.assert_allclose(second[:, 26:], mean[:, 26:], atol=1e-6)


@pytest.mark.parametrize(("change", "gate"), [(6, 0.0), (9, 0.5), (12, 1.0), (40, 1.0)])
def test_gate_opens_linearly(change: int, gate: float) -> None:
    frames = [(SCORES[0], STILL, 0.0), (SCORES[1], STILL + np.uint8(change), 0.1)]
    weight = 1 - np.exp(-0.5)
    weight += (1 - weight) * gate
    expected = SCORES[0] + weight * (SCORES[1] - SCORES[0])
    np.testing.assert_allclose(smoothed(frames, cut=1.0)[1], expected, atol=1e-6)


def test_noise_is_no_motion() -> None:
    noisy = RNG.normal(100, 8, (2, 96, 160, 3)).clip(0, 255).astype(np.uint8)
    score = np.zeros((96, 160), np.float32)
    found = smoothed([(score, noisy[0], 0.0), (score + 1, noisy[1], 0.1)])[1]
    np.testing.assert_allclose(found, 1 - np.exp(-0.5), atol=1e-6)


def test_cuts_other_sizes_and_time_that_goes_back_start_over() -> None:
    cut = smoothed([(SCORES[0], STILL, 0.0), (SCORES[1], STILL // 2, 0.1)])
    np.testing.assert_array_equal(cut[1], SCORES[1])
    back = smoothed([(SCORES[0], STILL, 5.0), (SCORES[1], STILL, 0.1)])
    np.testing.assert_array_equal(back[1], SCORES[1])
    other = smoothed([(SCORES[0], STILL, 0.0), (SCORES[1, :8], STILL[:8], 0.1)])
    np.testing.assert_array_equal(other[1], SCORES[1, :8])


def test_the_input_is_not_kept() -> None:
    score = SCORES[0].copy()
    smoother = ScoreSmoother(SmoothingRule(0.2))
    first = smoother.update(score, STILL, 0.0)
    score += 1
    np.testing.assert_array_equal(first, SCORES[0])


def test_bad_input_is_named() -> None:
    with pytest.raises(ImageError, match=r"score is \(24, 40\), image is \(24, 41, 3\)"):
        smoothed([(SCORES[0], np.zeros((24, 41, 3), np.uint8), 0.0)])
    for name, value in (("time_constant_s", 0.0), ("still", np.nan), ("cut", 1.5)):
        with pytest.raises(ParameterError, match=name):
            SmoothingRule(**{"time_constant_s": 1.0, name: value})

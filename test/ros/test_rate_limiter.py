"""So many frames a second, evenly spaced."""

from __future__ import annotations

import pytest

from anomaly_seg_ros.ros.counters import RateLimiter


@pytest.mark.parametrize(
    ("camera_hz", "limit_hz", "expected_hz"), [(30, 0, 30), (30, 10, 10), (30, 20, 20), (5, 10, 5)]
)
def test_rate_limiter_gives_the_whole_rate(camera_hz, limit_hz, expected_hz):
    now = [100.0]
    limiter = RateLimiter(clock=lambda: now[0])
    admitted = 0
    for frame in range(camera_hz * 10):
        now[0] = 100 + frame / camera_hz
        admitted += limiter.admits(limit_hz)
    assert admitted == pytest.approx(expected_hz * 10, abs=1)


def test_rate_limiter_catches_nothing_up_after_a_pause():
    now = [0.0]
    limiter = RateLimiter(clock=lambda: now[0])
    assert limiter.admits(1.0)
    now[0] = 100.0
    assert limiter.admits(1.0)
    now[0] = 100.5
    assert not limiter.admits(1.0)


def test_rate_limiter_follows_a_raised_rate():
    now = [0.0]
    limiter = RateLimiter(clock=lambda: now[0])
    assert limiter.admits(0.01)  # next in 100 s
    now[0] = 1.0
    assert not limiter.admits(10.0)
    now[0] = 1.2
    assert limiter.admits(10.0)

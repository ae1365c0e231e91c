"""When a message came."""

from __future__ import annotations

import time

import pytest
from sensor_msgs.msg import Image

from anomaly_seg_ros.ros.arrival import LONGEST_WAIT_S, Arrival

MESSAGE = Image()


def waited(received_ns: int) -> float:
    """Seconds by which the arrival lies before it was handed over."""
    before = time.perf_counter()
    arrival = Arrival.now(MESSAGE, received_ns)
    assert arrival.message is MESSAGE
    return before - arrival.time


def test_the_middleware_s_time_counts():
    assert waited(time.time_ns() - 5 * 10**9) == pytest.approx(5, abs=0.5)


@pytest.mark.parametrize(
    "seconds", [-5.0, LONGEST_WAIT_S + 1, 1e9], ids=["ahead", "too old", "a clock that was set"]
)
def test_impossible_times_are_those_of_the_handing_over(seconds):
    assert waited(time.time_ns() - int(seconds * 1e9)) <= 0


def test_a_middleware_that_tells_nothing():
    assert waited(0) <= 0

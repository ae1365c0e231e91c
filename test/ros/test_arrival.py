# SPDX-License-Identifier: Apache-2.0
"""When an image came, and what its stamp is worth."""

from __future__ import annotations

import time

import pytest
from detector_harness import stamped, street
from sensor_msgs.msg import Image

from anomaly_seg_ros.ros.arrival import (
    LONGEST_WAIT_S,
    NO_STAMP,
    REPEATED,
    WENT_BACK,
    Arrival,
    StampCheck,
)
from anomaly_seg_ros.ros.messages import image_message

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


NOW = 1_800_000_000 * 10**9
S = 10**9


def test_good_stamps_give_the_age():
    check = StampCheck()
    for index in range(3):
        verdict = check.judge(NOW + index * S, NOW + index * S + S // 4)
        assert (verdict.age, verdict.fault, verdict.other_clock) == (0.25, "", "")


def test_zero_is_no_stamp_and_never_a_repeated_one():
    check = StampCheck()
    for _ in range(3):
        verdict = check.judge(0, NOW)
        assert (verdict.age, verdict.fault) == (None, NO_STAMP)
        assert "sets no stamp" in verdict.reason
        assert not verdict.other_clock
    assert check.judge(NOW, NOW).fault == ""
    assert check.judge(0, NOW).fault == NO_STAMP
    assert check.judge(NOW + S, NOW + S).fault == ""  # it did not go back to 0 in between


def test_repeated_stamps_have_no_age_and_earlier_ones_have():
    check = StampCheck()
    check.judge(NOW, NOW)
    assert (check.judge(NOW, NOW + S).age, check.judge(NOW, NOW + S).fault) == (None, REPEATED)
    back = check.judge(NOW - S, NOW + S)
    assert (back.age, back.fault) == (2.0, WENT_BACK)
    assert "1800000000.000000000 s was followed by 1799999999.000000000 s" in back.reason


@pytest.mark.parametrize(
    ("stamp", "now", "words"),
    [
        (12 * S, NOW, "from a simulation's start or a boot: set 'use_sim_time'"),
        (NOW - 400 * 86400 * S, NOW, "for recorded data set 'use_sim_time'"),
        (NOW + 2 * 3600 * S, NOW, "set the clocks of both machines"),
        (-5 * S, NOW, "boot"),
        (NOW, 12 * S, "unset 'use_sim_time'"),
        (NOW, 0, "got no /clock"),
    ],
)
def test_other_clocks_are_told_apart(stamp, now, words):
    verdict = StampCheck().judge(stamp, now)
    assert words in verdict.other_clock
    assert f"{stamp / S:.1f} s" in verdict.other_clock
    assert verdict.age is None
    assert not verdict.fault


@pytest.mark.parametrize("seconds", [-3000, -60, 60, 3000])
def test_late_frames_are_of_the_same_clock(seconds):
    verdict = StampCheck().judge(NOW - seconds * S, NOW)
    assert (verdict.age, verdict.other_clock) == (seconds, "")


# The running node.

FRAME = street(48, 80)


@pytest.fixture
def detector(start_detector):
    detector = start_detector(frame_timeout=0.0, late_after=20.0, diagnostics_period=3.0)
    detector.listen("labels", "debug/pipeline_latency_ms")
    detector.wait_connected()
    return detector


def answered(detector, *seconds: float) -> None:
    """Sends frames of these stamps, one after another is answered."""
    for stamp in seconds:
        count = len(detector.received["labels"])
        detector.send(image_message(FRAME, "rgb8", stamped(stamp)))
        detector.spin_until(lambda n=count: len(detector.received["labels"]) > n)
        sent, got = stamped(stamp), detector.received["labels"][-1].header
        assert got == sent


@pytest.mark.ros
def test_a_driver_without_stamps_is_named_and_ages_count_from_the_arrival(detector):
    answered(detector, 0.0, 0.0, 0.0)
    values = detector.wait_for_diagnostic("input", "fault: no stamp", "3, ")
    assert "the driver sets no stamp" in values["condition: no stamps"]
    assert values["level"] == 1
    assert values["message"] == values["condition: no stamps"]
    assert not any(word in str(values) for word in ("network", "late frames", "stamp repeated"))
    latencies = [m.data for m in detector.received["debug/pipeline_latency_ms"]]
    assert latencies
    assert all(0 < latency < 20_000 for latency in latencies)
    # A driver that was put right is forgiven.
    answered(detector, time.time())
    detector.wait_for_diagnostic("input", "message", "frames arrive")


@pytest.mark.ros
@pytest.mark.parametrize(
    ("stamps", "kind", "words"),
    [
        (lambda now: (now, now, now), "stamps repeat", "does not stamp each frame"),
        (
            lambda now: (now, now - 2, now - 1, now - 3),
            "stamps go back",
            "a recording that began again",
        ),
        (lambda now: (12.0, 13.0), "other clock", "stamped by another clock"),
        (lambda now: (now + 1e8, now + 1e8 + 1), "other clock", "stamped by another clock"),
    ],
)
def test_doubtful_stamps_are_told(detector, stamps, kind, words):
    answered(detector, *stamps(time.time()))
    detector.spin_until(lambda: f"condition: {kind}" in detector.diagnostic("input"), kind)
    values = detector.diagnostic("input")
    assert words in values[f"condition: {kind}"]
    assert values["level"] == 1
    assert not any("network" in text for key, text in values.items() if "condition" in str(key))
    if kind == "other clock":
        assert all(0 < m.data < 20_000 for m in detector.received["debug/pipeline_latency_ms"])

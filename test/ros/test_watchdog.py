# SPDX-License-Identifier: Apache-2.0
"""What the watchdog says: of reports, and of the running node."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter

import pytest
from detector_harness import stamped, street

from anomaly_seg_ros.ros.counters import FrameCounts
from anomaly_seg_ros.ros.messages import image_message
from anomaly_seg_ros.ros.parameters import WatchdogLimits
from anomaly_seg_ros.ros.reports import CameraReport, Report
from anomaly_seg_ros.ros.watchdog import ERROR, WARN, inference_conditions, input_conditions

FRAME = street(48, 80)
ONLY_CHANGES = 3600.0  # seconds between regular messages
LATE_S = 5.0


def report(state: str = "active", enabled: bool = True, **fields: object) -> Report:
    """Of a node that listens to one camera, fine but for ``fields`` of it or of the camera."""
    camera = {
        "silence": 0.1, "age": 0.1, "counts": FrameCounts(), "totals": Counter(), "faults": {},
    }  # fmt: skip
    of_camera = {name: fields.pop(name) for name in [*camera, "new"] if name in fields}
    cameras = [CameraReport(name="", topic="/image", **(camera | of_camera))]
    limits = WatchdogLimits(frame_timeout=5.0, late_after=1.0, stuck_after=30.0)
    return Report("/detector", state, enabled, "", cameras, limits, **fields)


def kinds(made: Report) -> list[tuple[str, int]]:
    found = [*input_conditions(made, made.cameras[0]), *inference_conditions(made)]
    return [(condition.kind, condition.level) for condition in found]


def test_nothing_is_wrong():
    assert kinds(report()) == []
    assert kinds(report(age=None, silence=5.0)) == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"silence": 5.1}, ("no frames", WARN)),
        ({"age": 1.1}, ("late frames", WARN)),
        ({"age": -1.1}, ("stamps ahead", WARN)),
        ({"new": Counter(bad=2)}, ("bad frames", WARN)),
        ({"new": Counter(failed=1)}, ("failed", ERROR)),
        ({"incompatible_qos": {"/image": "1 incompatible"}}, ("incompatible QoS", WARN)),
        ({"at_work_for": 30.5}, ("inference stuck", ERROR)),
        ({"reduced": "out of memory"}, ("out of memory", WARN)),
    ],
)
def test_one_thing_is_wrong(fields, expected):
    assert kinds(report(**fields)) == [expected]


def test_slow_inference_is_told_by_the_newest_frame():
    made = report()
    made.stage_times.add({"processing": 1100.0})
    assert kinds(made) == [("slow inference", WARN)]
    made.stage_times.add({"processing": 900.0})
    assert kinds(made) == []


@pytest.mark.parametrize("fields", [{"enabled": False}, {"state": "inactive"}])
def test_no_frames_are_missed_while_none_are_expected(fields):
    assert kinds(report(silence=100.0, age=100.0, **fields)) == []


def test_zero_turns_warnings_off():
    made = report(silence=1e6, age=1e6)
    made.stage_times.add({"processing": 1e6})
    made.limits = WatchdogLimits(frame_timeout=0.0, late_after=0.0, stuck_after=1.0)
    assert kinds(made) == []


# The running node. It publishes regularly only every hour, so that what arrives are changes.


@pytest.fixture
def detector(start_detector):
    detector = start_detector(
        diagnostics_period=ONLY_CHANGES, frame_timeout=0.5, late_after=LATE_S, stuck_after=0.3
    )
    detector.listen("labels")
    detector.wait_connected()
    detector.enable(False)
    detector.wait_for_diagnostic("model", "enabled", "False")
    detector.enable(True)
    return detector


def send_now(detector, offset: float = 0.0) -> None:
    detector.send(image_message(FRAME, "rgb8", stamped(time.time() + offset)))


@pytest.mark.ros
def test_silence_is_told_at_once_and_its_end_as_well(detector):
    values = detector.wait_for_diagnostic("input", "message", "no frames on /image for ")
    assert values["level"] == WARN
    assert "ros2 topic info" in values["condition: no frames"]
    detector.spin_until(detector.images.get_subscription_count)
    detector.spin_for(0.3)
    send_now(detector)
    detector.wait_for_diagnostic("input", "message", "frames arrive")
    detector.wait_for_diagnostic("input", "message", "no frames on /image")


@pytest.mark.ros
@pytest.mark.parametrize(
    ("offset", "kind"), [(-60.0, "late frames"), (60.0, "stamps ahead"), (-9.0, "late frames")]
)
def test_late_frames_are_told_at_once(detector, offset, kind):
    assert detector.set_parameters(frame_timeout=0.0) == (True, "")
    detector.wait_connected()
    send_now(detector, offset)
    values = detector.wait_for_diagnostic("input", "message", "frames on /image are ")
    assert values["level"] == WARN
    assert f"condition: {kind}" in values
    (seconds,) = re.findall(r"([\d.]+) s ", values["message"])
    assert float(seconds) == pytest.approx(abs(offset), abs=LATE_S)  # it takes time to arrive
    assert "clocks" in values["message"]
    send_now(detector)
    detector.wait_for_diagnostic("input", "message", "frames arrive")


@pytest.mark.ros
def test_a_stuck_network_is_told_while_the_node_answers(detector, on_forward):
    let_go = threading.Event()
    on_forward(lambda frames: let_go.wait())
    detector.wait_connected()
    send_now(detector)
    values = detector.wait_for_diagnostic("latency", "message", "a frame has been at work for ")
    assert values["level"] == ERROR
    assert "deactivate" in values["message"]
    assert detector.state() == "active"
    assert detector.set_parameters(threshold=0.7) == (True, "")
    let_go.set()
    detector.spin_until(lambda: detector.received["labels"], "the frame is answered after all")
    detector.spin_until(lambda: detector.diagnostic("latency")["level"] == 0, "all is well again")

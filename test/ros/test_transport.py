# SPDX-License-Identifier: Apache-2.0
"""The Fast DDS profiles: when they are used, and that large frames then get through."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from anomaly_seg_ros.ros import transport
from anomaly_seg_ros.ros.transport import (
    DECIDED_BY,
    PREFIXES,
    PROFILE,
    SMALL_PROFILE,
    memory_needed,
    memory_shortage,
    profile_variables,
    shared_memory_free,
    use_profile,
)
from anomaly_seg_ros.system.resources import config_path

FRAMES = 10
SEGMENT_BYTES, SMALL_SEGMENT_BYTES = 64 * 2**20, 16 * 2**20
PLENTY, OF_A_CONTAINER = 8 * 10**9, 64 * 2**20
TIMEOUT_S = 120


def profile(name: str) -> dict[str, str]:
    """The variables that name this profile, for both versions of Fast DDS."""
    return {variable: str(config_path(f"{p}{name}.xml")) for variable, p in PREFIXES.items()}


@pytest.mark.parametrize(
    ("environment", "ending"),
    [
        ({}, ""),
        ({"RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"}, ""),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET", "ROS_LOCALHOST_ONLY": "0"}, ""),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "SYSTEM_DEFAULT"}, ""),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}, "_localhost"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "lokal"}, "_localhost"),  # so rcl takes it
        ({"ROS_LOCALHOST_ONLY": "1"}, "_localhost"),
        ({"ROS_LOCALHOST_ONLY": "1", "ROS_STATIC_PEERS": "robot"}, "_localhost"),
        # Static peers are on other machines.
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_STATIC_PEERS": "robot"}, ""),
    ],
)
@pytest.mark.parametrize(("free", "name"), [(PLENTY, PROFILE), (OF_A_CONTAINER, SMALL_PROFILE)])
def test_profile_keeps_to_the_range_of_the_environment(environment, ending, free, name):
    assert profile_variables(environment, free) == profile(f"{name}{ending}")


@pytest.mark.parametrize(
    ("environment", "free", "expected"),
    [
        (profile(PROFILE), PLENTY, ""),
        (profile(PROFILE), 100 * 10**6, ""),  # others have taken theirs already
        (
            profile(PROFILE),
            OF_A_CONTAINER,
            "has 67 MB free, a process needs 72 MB: images go over",
        ),
        (profile(SMALL_PROFILE), PLENTY, ""),
        (profile(SMALL_PROFILE), OF_A_CONTAINER, "has 67 MB free, 288 MB are wanted: small seg"),
        (profile(SMALL_PROFILE), 10 * 10**6, "has 10 MB free, a process needs 18 MB: images go"),
        (profile(SMALL_PROFILE), 0, "is full, missing or read-only, a process needs 18 MB"),
        ({}, OF_A_CONTAINER, ""),
        ({}, 500_000, "a process needs 1 MB"),
        ({"FASTRTPS_DEFAULT_PROFILES_FILE": "/nowhere.xml"}, 0, "missing or read-only"),
        ({"FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"}, 0, ""),
        (
            {"FASTDDS_BUILTIN_TRANSPORTS": "UDPv4", "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"},
            0,
            "missing or read-only",  # rmw_fastrtps ignores the first then
        ),
        ({"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}, 0, ""),
    ],
)
def test_what_the_shared_memory_lacks_is_told_with_its_remedy(environment, free, expected):
    told = memory_shortage(environment, free)
    assert expected in told
    assert bool(told) == bool(expected)
    assert "\n" not in told
    assert ("--shm-size=1g" in told) == bool(expected)


def test_segments_of_a_users_own_profile_are_read(tmp_path):
    own = tmp_path / "own.xml"
    own.write_text("<profiles><segment_size>\n 1000000000 </segment_size></profiles>")
    environment = {"FASTRTPS_DEFAULT_PROFILES_FILE": str(own)}
    assert memory_needed(environment) == pytest.approx(1.07e9)
    assert "a process needs 1070 MB" in memory_shortage(environment, 10**9)


def test_a_folder_that_is_missing_or_no_folder_has_nothing_free(tmp_path):
    assert shared_memory_free(tmp_path) > 0
    assert shared_memory_free(tmp_path / "missing") == 0


def test_the_eight_files_are_alike():
    """But for the segment, the network and the one word that Fast DDS 3 changed."""

    def text(prefix: str, name: str) -> str:
        text = config_path(f"{prefix}{name}.xml").read_text(encoding="utf-8")
        return re.sub(r"\s*<!--.*?-->", "", text, flags=re.DOTALL)

    two, three = PREFIXES.values()
    for ending in ("", "_localhost"):
        large = text(two, PROFILE + ending)
        assert f"<segment_size>{SEGMENT_BYTES}<" in large
        small = large.replace(f">{SEGMENT_BYTES}<", f">{SMALL_SEGMENT_BYTES}<")
        small = small.replace(">2048<", ">512<").replace(PROFILE, SMALL_PROFILE)
        assert text(two, SMALL_PROFILE + ending) == small
        for name in (PROFILE, SMALL_PROFILE):
            later = text(two, name + ending).replace("heartbeatPeriod>", "heartbeat_period>")
            assert text(three, name + ending) == later


@pytest.mark.parametrize(
    "environment",
    [*({name: "anything"} for name in DECIDED_BY), {"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}],
)
def test_the_users_own_choice_is_left_alone(environment, monkeypatch):
    assert profile_variables(environment) == {}
    for name in (*DECIDED_BY, "RMW_IMPLEMENTATION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    use_profile()
    assert dict(os.environ) == before


@pytest.mark.ros
def test_a_small_shared_memory_is_told_by_the_node(start_detector, monkeypatch, capfd):
    free = [OF_A_CONTAINER]
    monkeypatch.setattr(transport, "shared_memory_free", lambda: free[0])
    for name in DECIDED_BY:
        monkeypatch.delenv(name, raising=False)
    for name, value in profile_variables(os.environ).items():
        monkeypatch.setenv(name, value)
    detector = start_detector(wait_active=False, autostart=False)
    told = "/dev/shm has 67 MB free, 288 MB are wanted: small segments are used"
    values = detector.wait_for_diagnostic("transport", "message", told)
    assert values["level"] == 1
    assert "--shm-size=1g" in values["message"]
    assert values["fast_dds_profile"].startswith("fastdds_small_memory")
    assert "".join(capfd.readouterr()).count(told) == 1


@pytest.mark.ros
def test_transports_without_the_profile_are_told(start_detector, monkeypatch, capfd):
    """With them frames of some MB come three seconds late, however much memory there is."""
    monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "DEFAULT")
    told = "FASTDDS_BUILTIN_TRANSPORTS=DEFAULT keeps the package's Fast DDS profile away"
    assert use_profile().startswith(told)
    detector = start_detector(wait_active=False, autostart=False)
    detector.wait_for_diagnostic("transport", "note", told)
    assert "".join(capfd.readouterr()).count(told) == 1


@pytest.mark.ros
def test_a_shared_memory_that_fills_later_is_told(start_detector, monkeypatch):
    free = [PLENTY]
    monkeypatch.setattr(transport, "shared_memory_free", lambda: free[0])
    detector = start_detector(wait_active=False, autostart=False)
    assert detector.wait_for_diagnostic("transport", "message", "nothing is short")["level"] == 0
    free[0] = 0
    told = "/dev/shm is full, missing or read-only: processes that start now send images over UDP"
    assert detector.wait_for_diagnostic("transport", "message", told)["level"] == 1
    free[0] = PLENTY
    detector.wait_for_diagnostic("transport", "message", "nothing is short")


COMMON = """
import re, sys, time
import rclpy
from pathlib import Path
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from anomaly_seg_ros.ros.messages import image_message

frames = int(sys.argv[1])
best_effort = QoSProfile(depth=frames, reliability=ReliabilityPolicy.BEST_EFFORT)
rclpy.init()
node = rclpy.create_node("transport_test")
"""
SEND = """
import os
import numpy as np
from std_msgs.msg import Header

publisher = node.create_publisher(Image, "frames", best_effort)
while not publisher.get_subscription_count():
    time.sleep(0.01)
time.sleep(1)
for index in range(frames):
    picture = np.full((1024, 2048, 3), index, np.uint8)
    publisher.publish(image_message(picture, "rgb8", Header(frame_id=str(index))))
    time.sleep(0.2)
segments = set(re.findall(r"/dev/shm/fastrtps_[0-9a-f]{16}$", Path("/proc/self/maps").read_text(), re.M))
print(max(os.path.getsize(segment) for segment in segments))
time.sleep(2)
"""  # noqa: E501
RECEIVE = """
import json
import numpy as np

arrived = []

def take(message):
    data = np.frombuffer(message.data, np.uint8)
    assert data.size == 1024 * 2048 * 3
    assert (data == int(message.header.frame_id)).all()
    arrived.append(int(message.header.frame_id))

node.create_subscription(Image, "frames", take, best_effort)
started = time.monotonic()
while len(arrived) < frames and time.monotonic() - started < 30:
    rclpy.spin_once(node, timeout_sec=0.1)
print(json.dumps(arrived))
"""


def started(code: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    """A Python process in that environment only."""
    command = [sys.executable, "-c", COMMON + code, str(FRAMES)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.ros
@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no shared memory folder")
@pytest.mark.parametrize("discovery_range", ["LOCALHOST", "SUBNET"])
def test_large_best_effort_frames_get_through_between_processes(discovery_range):
    environment = {k: v for k, v in os.environ.items() if k not in DECIDED_BY}
    environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = discovery_range
    environment |= profile_variables(environment)
    receiver, sender = started(RECEIVE, environment), started(SEND, environment)
    try:
        sent, sender_errors = sender.communicate(timeout=TIMEOUT_S)
        received, receiver_errors = receiver.communicate(timeout=TIMEOUT_S)
    finally:
        for process in (sender, receiver):
            process.kill()
            process.wait()
    assert "Error" not in sender_errors + receiver_errors  # what Fast DDS says of a bad profile
    assert int(sent) > SEGMENT_BYTES
    assert json.loads(received) == list(range(FRAMES))

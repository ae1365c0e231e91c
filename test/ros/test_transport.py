"""The Fast DDS profiles: when they are used, and that large frames then get through."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from anomaly_seg_ros.resources import config_path
from anomaly_seg_ros.ros.transport import (
    DECIDED_BY,
    LOCALHOST_PROFILE,
    PROFILE,
    PROFILE_VARIABLES,
    profile_variables,
    use_profile,
)

FRAMES = 10
SEGMENT_BYTES = 64 * 2**20
TIMEOUT_S = 120


@pytest.mark.parametrize(
    ("environment", "profile"),
    [
        ({}, PROFILE),
        ({"RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"}, PROFILE),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET", "ROS_LOCALHOST_ONLY": "0"}, PROFILE),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}, LOCALHOST_PROFILE),
        ({"ROS_LOCALHOST_ONLY": "1"}, LOCALHOST_PROFILE),
        # Static peers are on other machines.
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_STATIC_PEERS": "robot"}, PROFILE),
    ],
)
def test_profile_keeps_to_the_range_of_the_environment(environment, profile):
    assert profile_variables(environment) == dict.fromkeys(
        PROFILE_VARIABLES, str(config_path(profile))
    )


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

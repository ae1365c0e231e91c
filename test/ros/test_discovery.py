# SPDX-License-Identifier: Apache-2.0
"""Surroundings in which nodes do not find each other, named before anybody waits."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import rclpy
from detector_harness import street

from anomaly_seg_ros.bags.writer import BagWriter
from anomaly_seg_ros.datasets import LoadedSample
from anomaly_seg_ros.errors import DiscoveryError
from anomaly_seg_ros.ros.discovery import check_discovery, discovery_hints, domain_id
from anomaly_seg_ros.ros.replay import Replayer
from anomaly_seg_ros.ros.transport import DECIDED_BY

FRAMES = 4
LOCALHOST = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
RUN_S = 500  # of a busy machine


@pytest.mark.parametrize(("text", "domain"), [("", 0), ("0", 0), ("232", 232), ("042", 34)])
def test_domains(text, domain):
    assert domain_id({"ROS_DOMAIN_ID": text}) == domain


@pytest.mark.parametrize("text", ["233", "-1", "one", "4.2", "089", "1 2"])
def test_what_is_no_domain_is_refused(text):
    with pytest.raises(DiscoveryError, match=f"^ROS_DOMAIN_ID={text}: expected .* 0 to 232$"):
        check_discovery({"ROS_DOMAIN_ID": text})


@pytest.mark.parametrize("environment", [{}, LOCALHOST, {"ROS_LOCALHOST_ONLY": "1"}])
def test_usual_surroundings_are_fine(environment):
    check_discovery(environment | {"ROS_DOMAIN_ID": "231"})


def test_discovery_that_is_off_is_refused():
    environment = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}
    with pytest.raises(DiscoveryError, match="RANGE=OFF keeps nodes from finding each other"):
        check_discovery(environment)
    check_discovery(environment | {"ROS_LOCALHOST_ONLY": "1"})  # rcl ignores the other then


def test_more_processes_than_look_for_each_other_are_refused():
    """What the 33rd and the 34th participant of a machine cannot do with LOCALHOST."""
    domain = 230
    environment = LOCALHOST | {"ROS_DOMAIN_ID": str(domain)}
    with ExitStack() as sockets:
        for number in range(32):
            taken = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            taken.bind(("127.0.0.1", 7410 + 250 * domain + 2 * number))
            if number == 30:
                check_discovery(environment)
        with pytest.raises(DiscoveryError, match=r"32 or more ROS processes .* in domain 230;"):
            check_discovery(environment)
        check_discovery(environment | {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"})
        check_discovery(environment | {"ROS_DOMAIN_ID": "229"})
        check_discovery(environment | {"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"})


def test_hints_name_what_is_set():
    hints = discovery_hints(LOCALHOST | {"ROS_DOMAIN_ID": "7", "ROS_STATIC_PEERS": ""})
    assert hints.endswith("here ROS_DOMAIN_ID=7, ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST")


@pytest.fixture
def replayer() -> Iterator[Replayer]:
    rclpy.init()
    replayer = Replayer("/awaited/detector", "/awaited/image")
    yield replayer
    replayer.close()
    rclpy.try_shutdown()


@pytest.mark.ros
def test_a_detector_that_is_not_there_is_told_with_who_is(replayer):
    other = rclpy.create_node("camera", namespace="front")
    try:
        with pytest.raises(DiscoveryError) as raised:
            replayer.wait_for_detector(0.3, lambda: None)
    finally:
        other.destroy_node()
    told = str(raised.value)
    assert told.startswith("no active detector listens on /awaited/image after 0 s: nodes seen: ")
    assert "/front/camera" in told
    assert f"ROS_DOMAIN_ID={os.environ['ROS_DOMAIN_ID']}" in told


@pytest.mark.ros
def test_a_detector_that_does_not_listen_is_told_apart(replayer):
    inactive = rclpy.create_node("detector", namespace="awaited")
    try:
        with pytest.raises(DiscoveryError, match="/awaited/detector is there, but inactive, or"):
            replayer.wait_for_detector(0.3, lambda: None)
    finally:
        inactive.destroy_node()


@pytest.mark.ros
def test_an_active_detector_is_not_waited_for_as_long_as_one_that_starts(replayer, monkeypatch):
    monkeypatch.setattr("anomaly_seg_ros.ros.replay.FOUND_WITHIN_S", 0.3)
    with pytest.raises(DiscoveryError):
        replayer.wait_for_detector(10**6, lambda: None, lambda: True)


@pytest.mark.ros
def test_what_is_missing_is_told_while_a_users_own_detector_is_waited_for(
    replayer, monkeypatch, capfd
):
    monkeypatch.setattr("anomaly_seg_ros.ros.replay.TELL_AFTER_S", 0.1)
    with pytest.raises(DiscoveryError):
        replayer.wait_for_detector(0.5, lambda: None)
    told = "".join(capfd.readouterr())
    assert told.count("no active detector listens on /awaited/image after 0 s: nodes seen") == 1


# In namespaces of their own: without the loopback interface, with little shared memory.


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames of 6.3 MB, of which a few do not fit into a small segment."""
    path = tmp_path_factory.mktemp("bags") / "bag"
    with BagWriter(path, frame_rate=5.0) as writer:
        for number in range(FRAMES):
            writer.write(LoadedSample(name=str(number), image=street(1024, 2048, seed=number)))
    return path


def unshared(flag: str, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs a shell script with these arguments in a new namespace, or skips the test."""
    environment = {k: v for k, v in os.environ.items() if k not in DECIDED_BY} | LOCALHOST
    try:
        subprocess.run(["unshare", flag, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"unshare {flag} is not permitted here")
    return subprocess.run(
        ["unshare", flag, "sh", "-ec", script, "sh", *words],
        env=environment, capture_output=True, text=True, timeout=RUN_S, check=False,
    )  # fmt: skip


EVALUATE = f'{sys.executable} -m anomaly_seg_ros.cli.evaluate_bag "$@"'


@pytest.mark.ros
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "tool",
    [
        "evaluate_bag",
        pytest.param("demo", marks=pytest.mark.thorough),
        pytest.param("inject_faults", marks=pytest.mark.thorough),
    ],
)
def test_a_loopback_interface_that_is_down_is_named_before_anything_is_loaded(bag, tmp_path, tool):
    arguments = ["--out", str(tmp_path / "out")]
    if tool == "evaluate_bag":
        arguments += [str(bag), "--model", "/no/model"]
    script = f'{sys.executable} -m anomaly_seg_ros.cli.{tool} "$@"'
    done = unshared("-rn", script, *arguments)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert line.startswith(f"{tool}: error: nothing sent to 127.0.0.1 arrives (Network is ")
    assert "ip link set lo up" in line
    assert not (tmp_path / "out" / "bag").exists()


@pytest.mark.ros
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_node_says_so_and_waits_for_better_times(tmp_path):
    """Somebody may set the interface up while it runs."""
    node = f"{sys.executable} -m anomaly_seg_ros.ros.detector --ros-args -p autostart:=false"
    script = f"""
    {node} >"$1" 2>&1 &
    until grep -q 'ip link set lo up' "$1"; do kill -0 $!; sleep 0.2; done
    kill -INT $!
    wait $!
    """
    done = unshared("-rn", script, str(tmp_path / "log"))
    assert done.returncode == 0, (tmp_path / "log").read_text()


@pytest.mark.ros
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("mount", "told"),
    [
        ("-o size=64m", "/dev/shm has 67 MB free, 288 MB are wanted: small segments are used"),
        pytest.param(
            "-o size=64m,ro",
            "/dev/shm is full, missing or read-only, a process needs 18 MB: images go over UDP",
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            "-o size=5m",
            "/dev/shm has 5 MB free, a process needs 18 MB: images go over UDP",
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_a_small_shared_memory_loses_nothing_and_is_told(bag, tiny_model, tmp_path, mount, told):
    script = f"mount -t tmpfs {mount} tmpfs /dev/shm; {EVALUATE}"
    arguments = [str(bag), "--model", str(tiny_model), "--device", "cpu", "--out", str(tmp_path)]
    done = unshared("-rm", script, *arguments)
    assert done.returncode == 0, done.stderr
    assert f"warning: {told}" in done.stderr
    results = json.loads((tmp_path / "metrics.json").read_text())
    assert results["frames"] == {"sent": FRAMES, "scored": FRAMES, "lost": 0}
    assert any(told in note and "--shm-size" in note for note in results["notes"])
    log = (tmp_path / "node.log").read_text()
    assert "--shm-size=1g" in log
    # What Fast DDS says when it has to do without, and every frame then takes seconds.
    assert ("Failed to create segment" in log) == ("over UDP" in told)

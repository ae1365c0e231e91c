# SPDX-License-Identifier: Apache-2.0
"""Faults injected into a running detector, and the books of every frame: docs/reliability.md."""

from __future__ import annotations

import json
import os
import signal

import pytest
from long_replay import LongReplay

from anomaly_seg_ros.bags.writer import BagWriter
from anomaly_seg_ros.cli import inject_faults as executable
from anomaly_seg_ros.datasets import LoadedSample
from tools.fault_replay import replay
from tools.fault_replay.bench import Bench
from tools.fault_replay.frames import pictures
from tools.fault_replay.network import save_small_model
from tools.fault_replay.node_runs import compare_two_runs, kill_and_restart
from tools.fault_replay.plan import EVENT_INTERVALS, FRAME_SHARES
from tools.fault_replay.replay import (
    EVENTS,
    MOST_GROWTH,
    FaultOptions,
    inject_faults,
    memory_growth,
)
from tools.fault_replay.report import NOTHING_LEFT, handles_verdict, summary

# rclpy nodes that talk over DDS; nothing here is timed, the limits are far beyond any machine.
pytestmark = [pytest.mark.ros, pytest.mark.timeout(300)]


def check(results: dict, minimum: int) -> None:
    """What must hold after any replay, however long."""
    assert results["violations"] == []
    assert results["violation_count"] == 0
    for name in (*FRAME_SHARES, *EVENT_INTERVALS):
        assert results["injected"][name] >= minimum, name
    assert min(results["peers_killed"].values()) >= minimum
    node, sent = results["node"], results["sent"]
    outcomes = ("processed", "dropped", "throttled", "unwatched", "bad", "failed")
    assert node["received"] == sum(node[name] for name in outcomes)
    assert sent["certain"] <= node["received"] <= sent["certain"] + sent["uncertain"]
    assert all(node[name] for name in outcomes)  # else something was not injected
    assert 0 < node["bad"] <= sent["bad"]
    connected = results["while_connected"]
    assert connected["published"] == connected["processed"] > 0.5 * node["processed"]
    assert connected["heard"] > 0.5 * connected["published"]
    handles = results["handles"]
    assert all(handles["fired"].values())
    assert handles_verdict(handles) == NOTHING_LEFT
    assert handles["after"]["python_threads"] == handles["before"]["python_threads"]


@pytest.mark.slow
def test_faults_of_every_kind_on_the_pictures_of_a_bag(tmp_path):
    with BagWriter(tmp_path / "bag") as writer:
        for number, picture in enumerate(pictures(3, 40, 56)):
            writer.write(LoadedSample(name=str(number), image=picture))
    options = FaultOptions(frames=2000, seed=7, minimum=1, bag=tmp_path / "bag")
    results = inject_faults(options, tmp_path)
    check(results, minimum=1)
    assert results["frames"] >= 1900


@pytest.mark.exhaustive  # five minutes
@pytest.mark.timeout(1200)
def test_a_hundred_thousand_frames(long_replay, domain, request, capsys):
    """The whole tool, with its defaults; its summary ends up in the test run's output."""
    if long_replay is None:
        long_replay = LongReplay(domain)
        request.addfinalizer(long_replay.close)
    code, output = long_replay.wait()
    results_file = long_replay.out / "faults.json"
    assert results_file.is_file(), output
    results = json.loads(results_file.read_text())
    with capsys.disabled():
        print()
        print("\n".join(f"  {line}" for line in summary(results)))
    assert results["violations"] == []
    assert code == 0, output
    check(results["replay"], minimum=3)
    assert results["replay"]["frames"] >= 100_000
    assert results["replay"]["memory"]["growth"] <= MOST_GROWTH
    assert results["reproducibility"]["different"] == 0


@pytest.mark.slow
def test_the_detector_killed_and_restarted(tmp_path):
    weights = tmp_path / "small.safetensors"
    save_small_model(weights)
    results = kill_and_restart(weights, pictures(3), 1, tmp_path / "log")
    assert results["violations"] == []
    assert len(results["answered_by_life"]) == 2
    assert all(results["answered_by_life"])


@pytest.mark.slow
def test_the_same_frames_give_the_same_bytes(tmp_path):
    weights = tmp_path / "small.safetensors"
    save_small_model(weights)
    results = compare_two_runs(pictures(6, 48, 80), str(weights), tmp_path / "log")
    assert (results["frames"], results["different"]) == (6, 0)


def test_every_event_of_a_plan_can_be_made():
    assert set(EVENTS) == set(EVENT_INTERVALS)


@pytest.mark.slow
def test_a_detector_that_dies_is_a_violation(tmp_path, monkeypatch):
    killed = []

    def kill(bench: Bench, plan: object, progress: object) -> None:
        killed.append(bench.detector.pid)
        os.kill(bench.detector.pid, signal.SIGKILL)
        bench.link.spin_until(lambda: False, "the end of the world")

    monkeypatch.setattr(replay, "fire", kill)
    results = inject_faults(FaultOptions(frames=300, minimum=1), tmp_path)
    assert len(killed) == 1
    (violation,) = results["violations"]
    assert "ended with code -9" in violation


def test_memory_growth_looks_behind_the_warm_up():
    samples = [(i, 100.0 + i) for i in range(20)] + [(i, 200.0) for i in range(20, 100)]
    assert memory_growth(samples)["growth"] == 0
    samples[90:] = [(i, 210.0) for i in range(90, 100)]
    growth = memory_growth(samples)
    assert growth["growth"] == pytest.approx(0.05)
    assert (growth["warm_mib"], growth["last_mib"]) == (200.0, 210.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--frames", "10"], "too few"), (["/nowhere"], "/nowhere: no such bag")],
)
def test_tool_names_what_is_wrong(tmp_path, capsys, arguments, words):
    assert executable.main([*arguments, "--out", str(tmp_path)]) == 1
    assert f"inject_faults: error: {words}" in capsys.readouterr().err.replace(
        "10 frames are ", ""
    )

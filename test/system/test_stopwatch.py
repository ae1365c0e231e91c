# SPDX-License-Identifier: Apache-2.0
"""Laps by name."""

from __future__ import annotations

import time
from typing import ClassVar

import pytest
import torch

from anomaly_seg_ros.system import stopwatch
from anomaly_seg_ros.system.stopwatch import Stopwatch


def test_laps_of_one_name_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 10.001, 10.005, 10.012, 10.012])
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: next(times))
    watch = Stopwatch(torch.device("cpu"))
    for name in ("upload", "network", "upload", "score"):
        watch.lap(name)
    assert watch.milliseconds() == pytest.approx({"upload": 8.0, "network": 4.0, "score": 0.0})
    assert list(watch.milliseconds()) == ["upload", "network", "score"]


def test_real_time_passes() -> None:
    watch = Stopwatch(torch.device("cpu"))
    time.sleep(0.02)
    watch.lap("network")
    assert watch.milliseconds()["network"] >= 20


def test_without_laps() -> None:
    assert Stopwatch(torch.device("cpu")).milliseconds() == {}


class FakeEvent:
    """Stands in for an event of the CUDA runtime."""

    recorded: ClassVar[list[object]] = []

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing
        self.place = -1

    def record(self, stream: object) -> None:
        FakeEvent.recorded.append(stream)
        self.place = len(FakeEvent.recorded)

    def elapsed_time(self, later: FakeEvent) -> float:
        return float(later.place - self.place)


def test_events_go_to_the_stream_of_the_watched_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The current device may be another one than that of the network."""
    monkeypatch.setattr(FakeEvent, "recorded", [])
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    watch = Stopwatch(torch.device("cuda", 1))
    watch.lap("upload")
    watch.lap("network")
    assert watch.milliseconds() == {"upload": 1.0, "network": 1.0}
    assert FakeEvent.recorded == ["stream of cuda:1"] * 3


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_laps_end_when_the_device_gets_there() -> None:
    device = torch.device("cuda")
    matrix = torch.randn(4096, 4096, device=device)
    torch.cuda.synchronize()
    watch = Stopwatch(device)
    watch.lap("idle")
    started = time.perf_counter()
    for _ in range(20):
        matrix = (matrix @ matrix).clamp(-1, 1)
    watch.lap("network")
    queued = 1e3 * (time.perf_counter() - started)
    torch.cuda.synchronize()
    assert watch.milliseconds()["network"] > queued

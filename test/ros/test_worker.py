"""The newest-only slot and its thread."""

from __future__ import annotations

import threading

import pytest

from anomaly_seg_ros.errors import ImageError
from anomaly_seg_ros.pixel_formats import FrameError
from anomaly_seg_ros.ros.worker import FrameCounts, RateLimiter, Worker

WAIT_S = 10.0


class Gate:
    """A ``process`` that can be held at each frame, and remembers what it was given."""

    def __init__(self) -> None:
        self.seen: list[object] = []
        self.entered = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)

    def __call__(self, frame: object) -> str:
        self.seen.append(frame)
        self.entered.release()
        assert self.go_on.acquire(timeout=WAIT_S)
        if isinstance(frame, Exception):
            raise frame
        return "processed"


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def faults():
    return []


@pytest.fixture
def counts():
    return FrameCounts()


@pytest.fixture
def worker(gate, faults, counts):
    worker = Worker(gate, lambda kind, error: faults.append((kind, str(error))), counts)
    worker.start()
    yield worker
    gate.go_on.release(100)
    assert worker.stop(WAIT_S)


def test_keeps_only_the_newest_frame_while_busy(worker, gate, counts):
    worker.put("a")
    assert gate.entered.acquire(timeout=WAIT_S)
    for frame in "bcd":
        worker.put(frame)  # returns at once, although "a" is still at work
    gate.go_on.release(2)
    assert gate.entered.acquire(timeout=WAIT_S)
    assert worker.stop(WAIT_S)
    assert gate.seen == ["a", "d"]
    assert counts.totals() == {"received": 4, "dropped": 2, "processed": 2}


def test_every_frame_is_seen_once_in_lock_step(worker, gate, counts):
    gate.go_on.release(50)
    for frame in range(50):
        worker.put(frame)
        assert gate.entered.acquire(timeout=WAIT_S)
    assert worker.stop(WAIT_S)
    assert gate.seen == list(range(50))
    assert counts.totals() == {"received": 50, "processed": 50}


def test_goes_on_after_bad_frames_and_failures(worker, gate, faults, counts):
    gate.go_on.release(5)
    frames = [
        FrameError("zero size", "0 x 0"), ImageError("odd"), MemoryError("no more"),
        ValueError("x"), "good",
    ]  # fmt: skip
    for frame in frames:
        worker.put(frame)
        assert gate.entered.acquire(timeout=WAIT_S)
    assert worker.stop(WAIT_S)
    assert counts.totals() == {"received": 5, "bad": 2, "failed": 2, "processed": 1}
    assert faults == [
        ("zero size", "0 x 0"),
        ("bad image", "odd"),
        ("inference: MemoryError", "no more"),
        ("inference: ValueError", "x"),
    ]


def test_stop_finishes_the_frame_at_work_and_drops_the_next(worker, gate, counts):
    worker.put("a")
    assert gate.entered.acquire(timeout=WAIT_S)
    worker.put("b")
    assert not worker.stop(timeout=0.05)  # still at work
    gate.go_on.release()
    assert worker.stop(WAIT_S)
    assert gate.seen == ["a"]
    assert counts.totals() == {"received": 2, "dropped": 1, "processed": 1}


def test_faults_are_first_once_per_kind():
    counts = FrameCounts()
    assert counts.add_fault("zero size", "first")
    assert not counts.add_fault("zero size", "second")
    assert counts.add_fault("truncated", "third")
    assert counts.faults() == {"zero size": (2, "second"), "truncated": (1, "third")}


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

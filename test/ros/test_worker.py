# SPDX-License-Identifier: Apache-2.0
"""The newest-only slots and their thread."""

from __future__ import annotations

import threading

import pytest

from anomaly_seg_ros.errors import ImageError
from anomaly_seg_ros.io.pixel_formats import FrameError
from anomaly_seg_ros.ros.counters import OUTCOMES, FrameCounts
from anomaly_seg_ros.ros.worker import Worker

WAIT_S = 10.0


class Source:
    """A camera, as the worker knows it."""

    def __init__(self) -> None:
        self.counts = FrameCounts()

    def pending(self) -> int:
        """Frames that have come to no end yet."""
        totals = self.counts.totals()
        return totals["received"] - sum(totals[name] for name in OUTCOMES)


class Gate:
    """A ``process`` that can be held at each batch, and remembers what it was given."""

    def __init__(self) -> None:
        self.seen: list[object] = []
        self.entered = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)

    def __call__(self, batch: dict[Source, object]) -> dict[Source, object]:
        self.seen.append(list(batch.values()))
        self.entered.release()
        assert self.go_on.acquire(timeout=WAIT_S)
        for frame in batch.values():
            if isinstance(frame, RuntimeError):
                raise frame
        return {
            camera: frame if isinstance(frame, Exception) else "processed"
            for camera, frame in batch.items()
        }


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def faults():
    return []


@pytest.fixture
def camera():
    return Source()


@pytest.fixture
def other():
    return Source()


@pytest.fixture
def start(gate, faults):
    """Starts a worker; ends it after the test."""
    running = []

    def run(**options: object) -> Worker:
        worker = Worker(gate, lambda *fault: faults.append(fault), **options)
        worker.start()
        running.append(worker)
        return worker

    yield run
    gate.go_on.release(100)
    assert all(worker.stop(WAIT_S) for worker in running)


@pytest.fixture
def worker(start):
    return start()


def test_keeps_only_the_newest_frame_while_busy(worker, gate, camera):
    worker.put(camera, "a")
    assert gate.entered.acquire(timeout=WAIT_S)
    for frame in "bcd":
        worker.put(camera, frame)  # returns at once, although "a" is still at work
        assert camera.pending() == 2
    gate.go_on.release(2)
    assert gate.entered.acquire(timeout=WAIT_S)
    assert worker.stop(WAIT_S)
    assert gate.seen == [["a"], ["d"]]
    assert camera.counts.totals() == {"received": 4, "dropped": 2, "processed": 2}


def test_every_frame_is_seen_once_in_lock_step(worker, gate, camera):
    gate.go_on.release(50)
    for frame in range(50):
        worker.put(camera, frame)
        assert gate.entered.acquire(timeout=WAIT_S)
    assert worker.stop(WAIT_S)
    assert gate.seen == [[frame] for frame in range(50)]
    assert camera.counts.totals() == {"received": 50, "processed": 50}


def test_goes_on_after_bad_frames_and_failures(worker, gate, faults, camera):
    gate.go_on.release(5)
    frames = [
        FrameError("zero size", "0 x 0"), ImageError("odd"), MemoryError("no more"),
        RuntimeError("raised, not returned"), "good",
    ]  # fmt: skip
    for frame in frames:
        worker.put(camera, frame)
        assert gate.entered.acquire(timeout=WAIT_S)
    assert worker.stop(WAIT_S)
    assert camera.counts.totals() == {"received": 5, "bad": 2, "failed": 2, "processed": 1}
    assert faults == [(camera, frame) for frame in frames[:4]]


def test_stop_finishes_the_frame_at_work_and_drops_the_next(worker, gate, camera):
    worker.put(camera, "a")
    assert gate.entered.acquire(timeout=WAIT_S)
    worker.put(camera, "b")
    assert not worker.stop(timeout=0.05)  # still at work
    worker.put(camera, "too late")
    assert camera.pending() == 1
    gate.go_on.release()
    assert worker.stop(WAIT_S)
    assert gate.seen == [["a"]]
    assert camera.counts.totals() == {"received": 3, "dropped": 2, "processed": 1}


def test_a_thread_left_behind_counts_its_frame_as_failed_once(worker, gate, faults, camera):
    worker.put(camera, RuntimeError("after all"))
    assert gate.entered.acquire(timeout=WAIT_S)
    assert worker.at_work_for > 0
    assert not worker.stop(timeout=0)
    assert worker.leave_behind() == (camera,)
    expected = {"received": 1, "failed": 1}
    assert camera.counts.totals() == expected
    gate.go_on.release()
    assert worker.stop(WAIT_S)  # it ended after all, and nobody hears of it
    assert camera.counts.totals() == expected
    assert faults == []


def test_tells_how_long_a_frame_is_at_work(worker, gate, camera):
    assert worker.at_work_for == 0
    worker.put(camera, "a")
    assert gate.entered.acquire(timeout=WAIT_S)
    first = worker.at_work_for
    assert 0 < first <= worker.at_work_for
    gate.go_on.release()
    assert worker.stop(WAIT_S)
    assert worker.at_work_for == 0


# Several cameras.


def test_frames_that_wait_together_are_one_batch(start, gate, camera, other):
    worker = start(cameras=2)
    worker.put(camera, "a")
    assert gate.entered.acquire(timeout=WAIT_S)
    worker.put(other, "x")
    worker.put(camera, "b")
    worker.put(other, "y")
    gate.go_on.release(2)
    assert gate.entered.acquire(timeout=WAIT_S)
    assert worker.stop(WAIT_S)
    assert gate.seen == [["a"], ["y", "b"]]
    assert camera.counts.totals() == {"received": 2, "processed": 2}
    assert other.counts.totals() == {"received": 2, "dropped": 1, "processed": 1}


def test_the_first_frame_waits_for_the_other_cameras(start, gate, camera, other):
    worker = start(cameras=2, batch_wait=WAIT_S)
    gate.go_on.release()
    worker.put(camera, "a")
    worker.put(camera, "b")  # the newest counts, also while waiting
    assert gate.seen == []
    worker.put(other, "x")
    assert gate.entered.acquire(timeout=WAIT_S)  # long before the wait is over
    assert worker.stop(WAIT_S)
    assert gate.seen == [["b", "x"]]


def test_the_first_frame_does_not_wait_for_ever(start, gate, camera):
    worker = start(cameras=2, batch_wait=0.05)
    gate.go_on.release()
    worker.put(camera, "a")
    assert gate.entered.acquire(timeout=WAIT_S)
    assert gate.seen == [["a"]]
    assert worker.stop(WAIT_S)


def test_stop_ends_the_wait_for_other_cameras(start, gate, camera):
    worker = start(cameras=2, batch_wait=1000.0)
    worker.put(camera, "a")
    assert worker.stop(WAIT_S)
    assert gate.seen == []
    assert camera.counts.totals() == {"received": 1, "dropped": 1}


def test_a_bad_frame_leaves_the_other_cameras_alone(start, gate, faults, camera, other):
    worker = start(cameras=2, batch_wait=WAIT_S)
    gate.go_on.release()
    bad = ImageError("odd")
    worker.put(camera, bad)
    worker.put(other, "x")
    assert gate.entered.acquire(timeout=WAIT_S)
    assert worker.stop(WAIT_S)
    assert faults == [(camera, bad)]
    assert camera.counts.totals() == {"received": 1, "bad": 1}
    assert other.counts.totals() == {"received": 1, "processed": 1}


def test_the_sum_holds_at_every_moment(faults):
    cameras = [Source() for _ in range(3)]
    outcomes = ["processed", "unwatched", ImageError("odd"), ValueError("x")]
    turn = iter(range(10**9))

    def process(batch: dict[Source, object]) -> dict[Source, object]:
        return {camera: outcomes[next(turn) % 4] for camera in batch}

    over = threading.Event()
    wrong = []

    def watch() -> None:
        while not over.is_set():
            wrong.extend(n for n in (camera.pending() for camera in cameras) if not 0 <= n <= 2)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(20):
        worker = Worker(process, lambda *fault: None, len(cameras))
        worker.start()
        for number in range(300):
            worker.put(cameras[number % 3], number)
        assert worker.stop(WAIT_S)
    over.set()
    watcher.join()
    assert wrong == []
    assert [camera.pending() for camera in cameras] == [0, 0, 0]
    assert sum(camera.counts.totals()["received"] for camera in cameras) == 6000

"""Slots that keep only the newest frame of each camera, and the one thread that works them off.

No ROS here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

from anomaly_seg_ros.errors import ImageError
from anomaly_seg_ros.ros.counters import FrameCounts


class Source(Protocol):
    """Where frames come from, a camera; hashable by identity."""

    counts: FrameCounts


Camera = TypeVar("Camera", bound=Source)
Frame = TypeVar("Frame")
# An outcome to count (``processed``, ``unwatched``), or what went wrong.
Outcome = str | Exception


class Worker(Generic[Camera, Frame]):
    """Runs ``process`` on the newest frames in a thread of its own.

    Every frame that is put comes to one end, counted at its camera's ``counts``.

    Args:
        process: Does the work on the frames that wait together, at most one a camera, and returns
            the outcome of each. An ImageError counts a frame as bad, any other exception as
            failed; one that is raised instead of returned concerns all of them. The thread goes
            on with the next frames either way.
        on_fault: Called in the worker's thread with each such exception and its camera.
        cameras: How many there are.
        batch_wait: Seconds that the first frame waits for those of the other cameras.
    """

    def __init__(
        self,
        process: Callable[[Mapping[Camera, Frame]], Mapping[Camera, Outcome]],
        on_fault: Callable[[Camera, Exception], None],
        cameras: int = 1,
        batch_wait: float = 0.0,
    ) -> None:
        self._process = process
        self._on_fault = on_fault
        self._cameras = cameras
        self._batch_wait = batch_wait
        self._changed = threading.Condition()
        # These are guarded by the condition.
        self._newest: dict[Camera, Frame] = {}
        self._waiting_since = 0.0
        self._at_work: tuple[Camera, ...] = ()
        self._stopping = False
        self._left_behind = False
        self._working_since: float | None = None
        # A daemon: a network that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)

    def start(self) -> None:
        """Start the thread; once in a worker's life."""
        self._thread.start()

    @property
    def at_work_for(self) -> float:
        """Seconds for which the frames at work have been there; 0 if there are none."""
        since = self._working_since
        return 0.0 if since is None else time.monotonic() - since

    def put(self, camera: Camera, frame: Frame) -> None:
        """Hand over a frame without waiting; an older one of this camera is dropped."""
        with self._changed:
            if self._stopping:
                camera.counts.add("received", "dropped")
                return
            if camera in self._newest:
                camera.counts.add("received", "dropped")
            else:
                camera.counts.add("received")
            if not self._newest:
                self._waiting_since = time.monotonic()
            self._newest[camera] = frame
            self._changed.notify()

    def stop(self, timeout: float | None = None) -> bool:
        """Finish the frames at work, drop the waiting ones, end the thread.

        Returns:
            False if the frames at work took longer than ``timeout`` seconds.
        """
        with self._changed:
            for camera in self._newest:
                camera.counts.add("dropped")
            self._newest.clear()
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def leave_behind(self) -> tuple[Camera, ...]:
        """Give up a thread that does not end: its frames failed, whatever it still does.

        Returns:
            The cameras of these frames.
        """
        with self._changed:
            self._left_behind = True
            cameras, self._at_work = self._at_work, ()
        for camera in cameras:
            camera.counts.add("failed")
        return cameras

    def _run(self) -> None:
        while batch := self._take():
            try:
                outcomes = self._process(batch)
            # Whatever the network raises (out of memory, a lost device) concerns these frames.
            except Exception as error:  # noqa: BLE001
                outcomes = dict.fromkeys(batch, error)
            with self._changed:
                self._at_work = ()
                self._working_since = None
                if self._left_behind:
                    return
            for camera, outcome in outcomes.items():
                if isinstance(outcome, Exception):
                    self._on_fault(camera, outcome)
                    outcome = "bad" if isinstance(outcome, ImageError) else "failed"
                camera.counts.add(outcome)
            # Messages may be large: do not hold them while waiting for the next.
            del batch, outcomes, outcome

    def _take(self) -> dict[Camera, Frame]:
        """The newest frame of each camera that has one; empty when the thread is to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest or self._stopping)
            left = self._waiting_since + self._batch_wait - time.monotonic()
            if left > 0 and self._cameras > 1:
                self._changed.wait_for(
                    lambda: len(self._newest) == self._cameras or self._stopping, left
                )
            batch, self._newest = self._newest, {}
            self._at_work = tuple(batch)
            self._working_since = time.monotonic() if batch else None
            return batch

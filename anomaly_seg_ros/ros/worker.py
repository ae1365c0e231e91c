# SPDX-License-Identifier: Apache-2.0
"""Slots that keep only the newest frame of each camera, and one thread that processes them.

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
    """A source of frames, such as a camera; hashable by identity."""

    counts: FrameCounts


Camera = TypeVar("Camera", bound=Source)
Frame = TypeVar("Frame")
# An outcome to count (``processed``, ``unwatched``), or the exception.
Outcome = str | Exception


class Worker(Generic[Camera, Frame]):
    """Runs ``process`` on the newest frames in a thread of its own.

    Every frame that is put gets exactly one outcome, counted in its camera's ``counts``.

    Args:
        process: Processes the waiting frames, at most one per camera, and returns the outcome of
            each. An ImageError counts a frame as bad, any other exception as failed; an exception
            that is raised instead of returned counts for all of them. The thread continues with
            the next frames either way.
        on_fault: Called in the worker's thread with the camera and the exception.
        cameras: Number of cameras.
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
        # A daemon, so that a hanging network does not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)

    def start(self) -> None:
        """Start the thread; once in a worker's life."""
        self._thread.start()

    @property
    def at_work_for(self) -> float:
        """Seconds that the frames at work have taken so far; 0 without any."""
        since = self._working_since
        return 0.0 if since is None else time.monotonic() - since

    def put(self, camera: Camera, frame: Frame) -> None:
        """Hand over a frame without blocking; an older one of this camera is dropped."""
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
        """Abandon a thread that does not end; its frames count as failed, whatever it still does.

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
            # Whatever the network raises (out of memory, a lost device) affects these frames only.
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
            # Messages may be large: release them before waiting for the next.
            del batch, outcomes, outcome

    def _take(self) -> dict[Camera, Frame]:
        """Wait for the newest frame of each camera; empty when the thread should end."""
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

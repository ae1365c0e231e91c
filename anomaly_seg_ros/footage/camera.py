# SPDX-License-Identifier: Apache-2.0
"""Frames of a live camera or stream: always the newest, whatever the network can keep up with."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator

import cv2
import numpy as np

from anomaly_seg_ros.errors import ImageError
from anomaly_seg_ros.footage.sources import CAMERA, Frame, decoded
from anomaly_seg_ros.footage.video_file import quieten_opencv

_POLL_S = 0.2
# Of a stream; a device's driver gives up by itself after ten seconds.
_TIMEOUT_MS = 10_000


class Camera:
    """A camera until it is stopped or vanishes; frames that nobody had time for are counted.

    Args:
        address: Number of a device, its path, or the URL of a stream.

    Raises:
        ImageError: It cannot be opened.
    """

    kind = CAMERA
    count: int | None = None
    frame_rate: float | None = None

    def __init__(self, address: int | str) -> None:
        self.name = f"camera {address}"
        self.notes: list[str] = []
        self.dropped = 0
        quieten_opencv()
        if isinstance(address, str) and "://" in address:
            timeouts = [
                *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _TIMEOUT_MS),
                *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, _TIMEOUT_MS),
            ]
            self._capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, timeouts)
            hint = "is it there, and does it send a video?"
        else:
            self._capture = cv2.VideoCapture(address)
            device = f"/dev/video{address}" if isinstance(address, int) else address
            hint = f"is it plugged in, may you read {device}, does another program use it?"
        if not self._capture.isOpened():
            raise ImageError(f"{self.name}: cannot be opened; {hint}")
        self._changed = threading.Condition()
        self._newest: tuple[float, np.ndarray] | None = None
        self._ended = self._wanted = False
        # From the start, so that nothing old waits in a buffer while a model is loaded.
        self._reader = threading.Thread(target=self._read, name=self.name, daemon=True)
        self._reader.start()

    def frames(self, stopped: Callable[[], bool]) -> Generator[Frame, None, None]:
        """See :class:`~anomaly_seg_ros.footage.sources.Source`.

        Raises:
            ImageError: It vanishes before the first frame.
        """
        first, count = 0.0, 0
        self._wanted = True
        try:
            while (taken := self._take(stopped)) is not None:
                moment, image = taken
                first = first if count else moment
                yield Frame(f"{count:06d}", decoded(image), round(moment - first, 6))
                count += 1
            if not stopped():
                if not count:
                    raise ImageError(f"{self.name}: it was opened, but sent no frame")
                self.notes.append(f"{self.name}: no more frames after {count}; it is gone")
        finally:
            self._ended = True
            self._reader.join(2 * _POLL_S)
            if not self._reader.is_alive():  # a driver that still waits must not lose its device
                self._capture.release()

    def _read(self) -> None:
        while not self._ended:
            found, picture = self._capture.read()
            with self._changed:
                if not found:
                    self._ended = True
                else:
                    self.dropped += self._wanted and self._newest is not None
                    self._newest = time.monotonic(), cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
                self._changed.notify()

    def _take(self, stopped: Callable[[], bool]) -> tuple[float, np.ndarray] | None:
        """The newest frame, once; None after the last."""
        with self._changed:
            while self._newest is None and not self._ended and not stopped():
                self._changed.wait(_POLL_S)
            taken, self._newest = self._newest, None
            return None if stopped() else taken

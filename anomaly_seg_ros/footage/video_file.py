# SPDX-License-Identifier: Apache-2.0
"""Decodes a video file through ffmpeg, which runs beside the network and says what is wrong.

OpenCV's reader would stretch frames to the first one's size where the size changes, and say
nothing about damage.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import IO

import cv2
import numpy as np

from anomaly_seg_ros.errors import ImageError
from anomaly_seg_ros.footage.film import find_ffmpeg
from anomaly_seg_ros.footage.sources import VIDEO, Frame, decoded

# Containers may state a length that is rounded to some frames.
_TOLERATED_SHARE, _TOLERATED_FRAMES = 0.02, 2
_STATED_RATE = 25.0  # where a raw stream states none, as ffmpeg assumes
_CHANGE = re.compile(r"parameters changed to .*?\b(\d+)x(\d+)")
_COMPLAINT = re.compile(r"^(?:\[[^]]*\] )*\[(?:error|fatal|panic)\] (.*)$")


class VideoFile:
    """A video file; frames are equally spaced at its frame rate.

    Frames of another size than the first are scaled into it with black bars, and noted.

    Args:
        path: Any file that ffmpeg reads.

    Raises:
        ImageError: It holds no readable video.
        OutputError: There is no ffmpeg.
    """

    kind = VIDEO
    dropped = 0

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ffmpeg = find_ffmpeg()
        quieten_opencv()
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        self._width, self._height, self._stated = (
            int(capture.get(key))
            for key in (
                cv2.CAP_PROP_FRAME_WIDTH,
                cv2.CAP_PROP_FRAME_HEIGHT,
                cv2.CAP_PROP_FRAME_COUNT,
            )
        )
        rate = capture.get(cv2.CAP_PROP_FPS)
        capture.release()
        if self._width < 1 or self._height < 1:
            raise ImageError(f"{path}: neither a picture nor a readable video")
        self.name = str(path)
        self.frame_rate: float | None = rate if 0 < rate <= 1000 else _STATED_RATE
        self.count = self._stated if self._stated > 0 else None
        self.notes: list[str] = []

    def frames(self, stopped: Callable[[], bool]) -> Generator[Frame, None, None]:
        """See :class:`~anomaly_seg_ros.footage.sources.Source`.

        Raises:
            ImageError: Not a single frame can be decoded.
        """
        assert self.frame_rate is not None  # noqa: S101 - set above
        shape = (self._height, self._width, 3)
        length, count = self._height * self._width * 3, 0
        with tempfile.TemporaryFile() as messages:
            decoder = subprocess.Popen(
                self._command(), stdout=subprocess.PIPE, stderr=messages, start_new_session=True
            )
            assert decoder.stdout is not None  # noqa: S101 - it was opened as a pipe
            try:
                while len(content := decoder.stdout.read(length)) == length:
                    image = np.frombuffer(content, np.uint8).reshape(shape)
                    yield Frame(
                        f"{count:06d}",
                        decoded(image),
                        round(count / self.frame_rate, 6),
                    )
                    count += 1
                decoder.wait()
                self._judge(count, messages)
            finally:
                decoder.kill()
                decoder.stdout.close()
                decoder.wait()

    def _command(self) -> list[str]:
        size = f"{self._width}:{self._height}"
        return [
            *(self._ffmpeg, "-nostdin", "-nostats", "-hide_banner", "-loglevel", "level+info"),
            *("-i", f"file:{self._path}", "-map", "0:v:0"),
            *("-vf", f"scale={size}:force_original_aspect_ratio=decrease,pad={size}:-1:-1"),
            *("-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"),
        ]

    def _judge(self, count: int, messages: IO[bytes]) -> None:
        """Notes what ffmpeg said about the file, and whether it ended early."""
        messages.seek(0)
        lines = messages.read().decode(errors="replace").splitlines()
        complaints = [found[1] for line in lines if (found := _COMPLAINT.match(line))]
        reason = f" ({complaints[0].rstrip('.')})" if complaints else ""
        if not count:
            raise ImageError(f"{self._path}: no frame can be decoded{reason}")
        missing = self._stated - count
        if missing > _TOLERATED_FRAMES and missing > _TOLERATED_SHARE * self._stated:
            self.notes.append(f"{self._path}: ends after {count} of {self._stated} frames{reason}")
        elif complaints:
            self.notes.append(f"{self._path}: damaged, some frames may show it{reason}")
        sizes = [f"{found[1]}x{found[2]}" for line in lines if (found := _CHANGE.search(line))]
        if sizes:
            self.notes.append(
                f"{self._path}: its size changes from {self._width}x{self._height} to "
                f"{', then '.join(sizes)}; such frames were scaled into the first size"
            )


def quieten_opencv() -> None:
    """Keeps OpenCV and its ffmpeg from writing to the terminal what callers report in a line."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

# SPDX-License-Identifier: Apache-2.0
"""Frames of a bag, a video, pictures or a camera at the pace at which they were taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from anomaly_seg_ros.bags.reader import BagReader
from anomaly_seg_ros.bags.recording import is_bag_folder
from anomaly_seg_ros.errors import BagError, ImageError, ParameterError
from anomaly_seg_ros.footage.sources import CAMERA, Source, open_source
from anomaly_seg_ros.io.bit_depth import BitDepth

Stopped = Callable[[], bool]
_BAG_SUFFIXES = (".mcap", ".db3")
_POLL_S = 0.1
_FRAME_RATE = 10.0  # of pictures, which state none


class TimedFrame(NamedTuple):
    """One frame, not decoded yet.

    Attributes:
        due_s: Seconds after the first frame; None: as soon as it is there.
        read: Returns the image, (H, W, 3) uint8 RGB; raises ImageError or BagError.
    """

    due_s: float | None
    read: Callable[[], np.ndarray]


class Playback:
    """Plays footage in a loop, or a camera until it vanishes.

    Args:
        name: What it is, for people.
        frames: Yields the frames from the start.
        pause_s: Seconds between the last frame and the first one again.
        notes: What was wrong with the footage, complete after its last frame.
        is_camera: It cannot start again.
    """

    def __init__(
        self,
        name: str,
        frames: Callable[[Stopped], Iterator[TimedFrame]],
        pause_s: float,
        notes: list[str],
        is_camera: bool = False,
    ) -> None:
        self.name = name
        self._frames = frames
        self._pause_s = pause_s
        self._notes = notes
        self._is_camera = is_camera

    def play(self, stopped: Stopped, tell: Callable[[str], None]) -> Iterator[np.ndarray]:
        """Yields each image when it is due; one that is late moves all later ones.

        Args:
            stopped: Ends it soon after it is true.
            tell: Takes a line about each frame that is left out, and about the footage, once.

        Raises:
            ImageError: No frame can be read, or the camera has vanished.
        """
        first_round = True
        while not stopped():
            began, shown = time.monotonic(), 0
            for frame in self._frames(stopped):
                try:
                    image = frame.read()
                except (BagError, ImageError) as error:
                    if first_round:
                        tell(f"left out: {error}")
                    continue
                if frame.due_s is not None:
                    began = max(began, time.monotonic() - frame.due_s)
                    _wait_until(began + frame.due_s, stopped)
                if stopped():
                    return
                yield image
                shown += 1
            if stopped():
                return
            if self._is_camera:
                raise ImageError(self._notes[-1])
            if not shown:
                raise ImageError(f"{self.name}: no frame can be read")
            if first_round:
                for note in self._notes:
                    tell(note)
            first_round = False
            _wait_until(time.monotonic() + self._pause_s, stopped)


@contextmanager
def open_playback(
    given: str, frame_rate: float | None = None, image_topic: str | None = None
) -> Iterator[Playback]:
    """Opens what the user named.

    Args:
        given: A bag, or what ``segment`` takes: a video, a picture or a folder of them, a camera,
            the URL of a stream.
        frame_rate: Frames per second of pictures and videos, in place of 10 and the video's own.
        image_topic: The camera's topic in a bag; None chooses it.

    Raises:
        ImageError, BagError: It does not exist, or cannot be read.
        ParameterError: An option is out of range, or means nothing for this input.
    """
    path = Path(given).expanduser()
    is_bag = path.suffix in _BAG_SUFFIXES or is_bag_folder(path)
    if frame_rate is not None and not 0 < frame_rate <= 1000:
        raise ParameterError(f"fps must be in (0, 1000], got {frame_rate}")
    if image_topic is not None and not is_bag:
        raise ParameterError(f"image topic {image_topic}: {given} is no bag")
    if is_bag:
        with closing(BagReader(path, image_topic)) as reader:
            yield _of_bag(reader)
    else:
        yield _of_source(open_source([given]), frame_rate)


def _of_bag(reader: BagReader) -> Playback:
    depth = BitDepth()

    def frames(stopped: Stopped) -> Iterator[TimedFrame]:
        for frame in reader.frames():
            yield TimedFrame(frame.play_ns / 1e9, partial(frame.to_rgb, depth))

    name = f"{reader.path} ({reader.image_topic})"
    return Playback(name, frames, 1 / (reader.frame_rate or _FRAME_RATE), reader.notes)


def _of_source(source: Source, frame_rate: float | None) -> Playback:
    rate = frame_rate or source.frame_rate or _FRAME_RATE
    is_camera = source.kind == CAMERA

    def frames(stopped: Stopped) -> Iterator[TimedFrame]:
        for index, frame in enumerate(source.frames(stopped)):
            yield TimedFrame(None if is_camera else index / rate, frame.read)

    return Playback(source.name, frames, 1 / rate, source.notes, is_camera)


def _wait_until(moment: float, stopped: Stopped) -> None:
    while (left := moment - time.monotonic()) > 0 and not stopped():
        time.sleep(min(left, _POLL_S))

"""Frames to send: real ones where the machine has them, else noise."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import cv2
import numpy as np
from rclpy.serialization import serialize_message
from std_msgs.msg import Header

from anomaly_seg_ros.io.images import read_image
from anomaly_seg_ros.ros.messages import image_message
from benchmarks.online.machine import REPOSITORY

# Below the data folder; street scenes of 1024 x 2048.
_FOLDER = Path("cityscapes/leftImg8bit/train/aachen")
# Of CDR: the encapsulation, then the header's stamp.
_STAMP_AT = 4
_STAMP = struct.Struct("<iI")


def load(size: tuple[int, int], count: int) -> tuple[list[np.ndarray], str]:
    """Frames of a size, and in words where they come from.

    Args:
        size: (height, width); real frames are resized to it.
        count: How many at most.

    Returns:
        (H, W, 3) uint8 RGB each.
    """
    folder = Path(os.environ.get("ANOMALY_SEG_DATA", REPOSITORY.parent / "shared" / "data"))
    paths = sorted((folder / _FOLDER).glob("*.*"))[:count]
    if not paths:
        rng = np.random.default_rng(0)
        noise = [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)]
        return noise, "noise (no real frames: set ANOMALY_SEG_DATA)"
    return [_fitted(read_image(path), size) for path in paths], f"real frames, {_FOLDER}"


def _fitted(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if image.shape[:2] == size:
        return image
    shrinks = size[0] < image.shape[0]
    return cv2.resize(
        image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )


class PreparedFrame:
    """An Image message serialised once, so that sending it costs no conversion.

    Args:
        rgb: (H, W, 3) uint8.
    """

    def __init__(self, rgb: np.ndarray) -> None:
        message = image_message(rgb, "rgb8", Header(frame_id="camera"))
        serialised = serialize_message(message)
        self._before = serialised[:_STAMP_AT]
        self._after = serialised[_STAMP_AT + _STAMP.size :]

    def stamped(self, stamp_ns: int) -> bytes:
        """The message with this stamp; one copy."""
        return b"".join((self._before, _STAMP.pack(*divmod(stamp_ns, 10**9)), self._after))


def stamp_of(serialised: bytes) -> int:
    """The stamp of a serialised message that begins with a header, in nanoseconds."""
    seconds, nanoseconds = _STAMP.unpack_from(serialised, _STAMP_AT)
    return seconds * 10**9 + nanoseconds


class Stamps:
    """Stamps of the present time, each greater than the one before."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        """In nanoseconds."""
        self._last = max(time.time_ns(), self._last + 1)
        return self._last

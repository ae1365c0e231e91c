# SPDX-License-Identifier: Apache-2.0
"""Image messages <-> arrays."""

from __future__ import annotations

import array
from functools import cache
from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from std_msgs.msg import Header

from anomaly_seg_ros.io.bit_depth import BitDepth
from anomaly_seg_ros.io.pixel_formats import rgb_from_compressed, rgb_from_raw

# Exactly the strings of image_transport, with the space: subscribers parse the colour order.
_JPEG_FORMAT = "rgb8; jpeg compressed bgr8"
_PNG_FORMAT = "mono8; png compressed "
# Label maps compress by runs of equal pixels, which OpenCV's default strategy looks for: level 1
# takes 3 times as long and gives larger files. PNG's filters (differences of neighbours) would add
# a fifth to both time and size.
_PNG_OF_FLAT_AREAS = (
    [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]
    if hasattr(cv2, "IMWRITE_PNG_FILTER")  # not in older OpenCV
    else []
)


def rgb_from_message(
    message: Image | CompressedImage, depth: BitDepth | None = None
) -> np.ndarray:
    """Decodes a message to (H, W, 3) uint8 RGB; see :mod:`~anomaly_seg_ros.io.pixel_formats`.

    Raises:
        FrameError: The message holds no usable image.
    """
    if isinstance(message, CompressedImage):
        return rgb_from_compressed(message, depth)
    return rgb_from_raw(message, depth)


def image_message(array: np.ndarray, encoding: str, header: Header) -> Image:
    """Makes an unpadded Image that is a view of an array.

    Args:
        array: (H, W) or (H, W, C), of any type; must not change until it is published.
        encoding: ``mono8``, ``mono16``, ``rgb8`` or ``32FC1``, fitting the array.
        header: Used as it is, not copied.
    """
    array = np.ascontiguousarray(array)
    message = Image(
        header=header,
        height=array.shape[0],
        width=array.shape[1],
        encoding=encoding,
        is_bigendian=False,
        step=array[:1].nbytes,  # not the stride, which is arbitrary for a single row
    )
    show_data(message, array)
    return message


def show_data(message: Image | CompressedImage | PointCloud2, values: np.ndarray) -> None:
    """Sets the data of a message to a view of an array, for publishing.

    rclpy accepts any buffer and copies it once when it publishes, but the field's setter takes a
    buffer for a sequence of numbers (155 ms at 2 MP). The attribute behind the field takes it as
    it is. Where a release of ROS has none, the field gets an array: two copies more, of the kind
    that takes a fraction of a millisecond (``python -m benchmarks.message_copies``).

    Args:
        message: Its ``data`` becomes a memoryview of bytes, or an array of them.
        values: Contiguous, any shape and type; must not change until it is published.
    """
    view = memoryview(values).cast("B")  # type: ignore[arg-type]  # numpy stubs
    kind: Any = type(message)
    if _takes_views(kind):
        message._data = view
    else:
        set_data(message, view)


def set_data(message: Image | CompressedImage | PointCloud2, view: memoryview) -> None:
    """Sets the data of a message to a copy of bytes, in the fastest public way."""
    data = array.array("B")
    data.frombytes(view)
    message.data = data


@cache
def _takes_views(kind: Any) -> bool:
    """Whether messages of this type publish whatever buffer their private attribute holds."""
    message, view = kind(), memoryview(b"view")
    try:
        message._data = view
    except (AttributeError, TypeError):
        return False
    # A class that accepts any attribute would publish another one, which is empty.
    return message.data is view


def jpeg_message(rgb: np.ndarray, quality: int, header: Header) -> CompressedImage:
    """Encodes an (H, W, 3) uint8 RGB image as JPEG with ``quality`` 1 to 100."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    message = CompressedImage(header=header, format=_JPEG_FORMAT)
    show_data(message, encoded)
    return message


def png_message(values: np.ndarray, header: Header) -> CompressedImage:
    """Encodes an (H, W) uint8 label map or mask as PNG, losslessly."""
    _, encoded = cv2.imencode(".png", values, _PNG_OF_FLAT_AREAS)
    message = CompressedImage(header=header, format=_PNG_FORMAT)
    show_data(message, encoded)
    return message

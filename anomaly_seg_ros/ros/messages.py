"""Image messages <-> arrays."""

from __future__ import annotations

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from anomaly_seg_ros.io.bit_depth import BitDepth
from anomaly_seg_ros.io.pixel_formats import rgb_from_compressed, rgb_from_raw

# The words of image_transport, to the last space: its subscribers read the colour order there.
_JPEG_FORMAT = "rgb8; jpeg compressed bgr8"
_PNG_FORMAT = "mono8; png compressed "
# Runs of equal pixels are all that a label map has to compress, and what OpenCV looks for unless
# it is given a level: level 1 takes 3 times as long and gives larger files. PNG's filters, that
# is differences of neighbours, cost a fifth of the time and of the size.
_PNG_OF_FLAT_AREAS = (
    [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]
    if hasattr(cv2, "IMWRITE_PNG_FILTER")  # not in older OpenCV
    else []
)


def rgb_from_message(
    message: Image | CompressedImage, depth: BitDepth | None = None
) -> np.ndarray:
    """The image of a message, (H, W, 3) uint8 RGB; see :mod:`~anomaly_seg_ros.io.pixel_formats`.

    Raises:
        FrameError: The message holds no usable image.
    """
    if isinstance(message, CompressedImage):
        return rgb_from_compressed(message, depth)
    return rgb_from_raw(message, depth)


def image_message(array: np.ndarray, encoding: str, header: Header) -> Image:
    """An unpadded Image of an array, which it shows without a copy.

    Args:
        array: (H, W) or (H, W, C), uint8 or float32; to be left alone until it is published.
        encoding: ``mono8``, ``rgb8`` or ``32FC1``, fitting the array.
        header: Shared, not copied.
    """
    array = np.ascontiguousarray(array)
    message = Image(
        header=header,
        height=array.shape[0],
        width=array.shape[1],
        encoding=encoding,
        is_bigendian=False,
        step=array[:1].nbytes,  # not a stride: that of a single row may be anything
    )
    show_data(message, array)
    return message


def show_data(message: Image | CompressedImage, values: np.ndarray) -> None:
    """Let the data of a message be a view of an array, to be published.

    rclpy reads any buffer there and copies it once into what it publishes. The public ways copy
    before that: ``data.frombytes`` once more, the setter element by element (155 ms at 2 MP).

    Args:
        message: Its ``data`` is a memoryview of bytes afterwards.
        values: Contiguous, of any shape and type; to be left alone until it is published.
    """
    message._data = memoryview(values).cast("B")


def jpeg_message(rgb: np.ndarray, quality: int, header: Header) -> CompressedImage:
    """A JPEG of an (H, W, 3) uint8 RGB image, at ``quality`` 1 to 100."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    message = CompressedImage(header=header, format=_JPEG_FORMAT)
    show_data(message, encoded)
    return message


def png_message(values: np.ndarray, header: Header) -> CompressedImage:
    """A PNG of an (H, W) uint8 label map or mask, without loss."""
    _, encoded = cv2.imencode(".png", values, _PNG_OF_FLAT_AREAS)
    message = CompressedImage(header=header, format=_PNG_FORMAT)
    show_data(message, encoded)
    return message

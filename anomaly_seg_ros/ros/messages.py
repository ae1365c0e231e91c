"""Image messages <-> arrays."""

from __future__ import annotations

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from anomaly_seg_ros.pixel_formats import rgb_from_compressed, rgb_from_raw


def rgb_from_message(message: Image | CompressedImage) -> np.ndarray:
    """The image of a message, (H, W, 3) uint8 RGB; see :mod:`~anomaly_seg_ros.pixel_formats`.

    Raises:
        FrameError: The message holds no usable image.
    """
    if isinstance(message, CompressedImage):
        return rgb_from_compressed(message)
    return rgb_from_raw(message)


def image_message(array: np.ndarray, encoding: str, header: Header) -> Image:
    """An unpadded Image of an array.

    Args:
        array: (H, W) or (H, W, C), uint8 or float32.
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
        step=array.strides[0],
    )
    # The generated setter checks an ndarray element by element, 155 ms at 2 MP; this is 0.2 ms.
    message.data.frombytes(memoryview(array).cast("B"))
    return message


def jpeg_message(rgb: np.ndarray, quality: int, header: Header) -> CompressedImage:
    """A JPEG of an (H, W, 3) uint8 RGB image, at ``quality`` 1 to 100."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    # The words that image_transport writes, so that its subscribers know the colour order.
    message = CompressedImage(header=header, format="rgb8; jpeg compressed bgr8")
    message.data.frombytes(encoded.tobytes())
    return message

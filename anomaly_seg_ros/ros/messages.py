"""ROS image messages <-> arrays, with every fault of a message named.

8-bit colour and grey, 16-bit, Bayer, YUV and float images are read with NumPy and OpenCV:
cv_bridge adds nothing to them here, ignores row padding in its PyPI build, and breaks on NumPy 2
in its older ones.
"""

from __future__ import annotations

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from anomaly_seg_ros.errors import ImageError

# Encoding -> channels, and the cvtColor code to RGB (None: it is RGB). A conversion is one
# SIMD pass (0.4 ms for 2 MP), where a reversed view would cost the network a 9 ms copy.
_COLOUR_8BIT: dict[str, tuple[int, int | None]] = {
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "8UC3": (3, cv2.COLOR_BGR2RGB),  # OpenCV's order, as everywhere in ROS
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    "8UC4": (4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
    "8UC1": (1, cv2.COLOR_GRAY2RGB),
}
# OpenCV names a Bayer pattern by its second row, ROS by its first: rggb is OpenCV's "BG".
_BAYER = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}
_COLOUR_8BIT.update({f"bayer_{name}8": (1, code) for name, code in _BAYER.items()})
# 16-bit encoding -> the 8-bit one of its high bytes.
_COLOUR_16BIT = {
    "rgb16": "rgb8", "bgr16": "bgr8", "16UC3": "bgr8", "rgba16": "rgba8", "bgra16": "bgra8",
    "16UC4": "bgra8", "mono16": "mono8", "16UC1": "mono8",
    **{f"bayer_{name}16": f"bayer_{name}8" for name in _BAYER},
}  # fmt: skip
# Packed 4:2:2, two bytes a pixel.
_YUV422 = {
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
    "yuyv": cv2.COLOR_YUV2RGB_YUY2,
}
# Planar 4:2:0: a plane of luma, below it half as many rows of interleaved chroma.
_YUV420 = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21}
_FLOAT = {"32FC1": 1, "32FC3": 3}
ENCODINGS = (*_COLOUR_8BIT, *_COLOUR_16BIT, *_YUV422, *_YUV420, *_FLOAT)

_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


class FrameError(ImageError):
    """A message that holds no usable image; ``kind`` is the class of fault, to count it by."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def rgb_from_message(message: Image | CompressedImage) -> np.ndarray:
    """The image of a message.

    16-bit images keep their high byte. Float images must lie in [0, 1].

    Returns:
        (H, W, 3) uint8 RGB; for ``rgb8`` a read-only view of the message's data, with the
        message's row padding as strides.

    Raises:
        FrameError: Names the encoding and the sizes at fault.
    """
    try:
        if isinstance(message, CompressedImage):
            return _decompress(message)
        return _rgb_from_raw(message)
    except cv2.error as error:  # such as a file that claims more pixels than OpenCV allows
        what = getattr(message, "encoding", None) or getattr(message, "format", "")
        raise FrameError("undecodable", f"'{what}' image: {error.err}") from error


def _rgb_from_raw(message: Image) -> np.ndarray:
    encoding, height, width = message.encoding, message.height, message.width
    if height == 0 or width == 0:
        raise FrameError("zero size", f"'{encoding}' image of {width} x {height} pixels")
    if encoding in _COLOUR_8BIT:
        channels, code = _COLOUR_8BIT[encoding]
        return _converted(_pixels(message, np.dtype(np.uint8), channels), code)
    if encoding in _COLOUR_16BIT:
        channels, code = _COLOUR_8BIT[_COLOUR_16BIT[encoding]]
        high_byte = 0 if message.is_bigendian else 1
        pairs = _pixels(message, np.dtype(np.uint8), 2 * channels)
        high = np.ascontiguousarray(pairs.reshape(height, width, channels, 2)[..., high_byte])
        return _converted(high, code)
    if encoding in _YUV422:
        if width % 2:
            raise FrameError("odd size", f"'{encoding}' image has an odd width, {width}")
        return cv2.cvtColor(_pixels(message, np.dtype(np.uint8), 2), _YUV422[encoding])
    if encoding in _YUV420:
        if width % 2 or height % 2:
            raise FrameError("odd size", f"'{encoding}' image of odd size, {width} x {height}")
        planes = _pixels(message, np.dtype(np.uint8), 1, rows=height * 3 // 2)
        return cv2.cvtColor(np.ascontiguousarray(planes[..., 0]), _YUV420[encoding])
    if encoding in _FLOAT:
        return _rgb_from_float(message, _FLOAT[encoding])
    raise FrameError(
        "unknown encoding", f"encoding '{encoding}' is not one of {', '.join(ENCODINGS)}"
    )


def _pixels(message: Image, dtype: np.dtype, channels: int, rows: int | None = None) -> np.ndarray:
    """(rows, W, channels) view of the data without the padding at the end of each row."""
    rows = message.height if rows is None else rows
    row_bytes = message.width * channels * dtype.itemsize
    size = f"'{message.encoding}' image of {message.width} x {message.height} pixels"
    if message.step < row_bytes:
        raise FrameError(
            "short step", f"{size}: step is {message.step} bytes, a row needs {row_bytes}"
        )
    needed = rows * message.step
    if len(message.data) < needed:
        raise FrameError(
            "short data", f"{size}: {len(message.data)} bytes of data, step needs {needed}"
        )
    # With strides: padding needs no copy, and a step may be no multiple of the item size.
    return np.ndarray(
        (rows, message.width, channels),
        dtype,
        buffer=np.frombuffer(message.data, np.uint8),
        strides=(message.step, channels * dtype.itemsize, dtype.itemsize),
    )


def _converted(pixels: np.ndarray, code: int | None) -> np.ndarray:
    return pixels if code is None else cv2.cvtColor(pixels, code)


def _rgb_from_float(message: Image, channels: int) -> np.ndarray:
    dtype = np.dtype(">f4" if message.is_bigendian else "<f4")
    values = _pixels(message, dtype, channels).astype(np.float32)
    if not np.isfinite(values).all():
        count = values.size - np.count_nonzero(np.isfinite(values))
        raise FrameError("not finite", f"'{message.encoding}' image: {count} values not finite")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        raise FrameError(
            "out of range",
            f"'{message.encoding}' image: values from {low:g} to {high:g}, not in [0, 1]",
        )
    code = cv2.COLOR_GRAY2RGB if channels == 1 else cv2.COLOR_BGR2RGB
    return cv2.cvtColor(cv2.convertScaleAbs(values, alpha=255.0), code)


def _decompress(message: CompressedImage) -> np.ndarray:
    data = bytes(message.data)
    what = f"compressed image '{message.format}' of {len(data)} bytes"
    if not data:
        raise FrameError("zero size", what)
    # OpenCV fills what is missing of a cut file with grey and says nothing. Some cameras pad
    # their JPEG with zeros; no whole one ends otherwise.
    ends = {_JPEG_START: _JPEG_END, _PNG_START: _PNG_END}
    for start, end in ends.items():
        if data.startswith(start) and not data.rstrip(b"\0").endswith(end):
            raise FrameError("truncated", f"{what} is cut off: no end marker")
    # The picture must lie as camera_info says: an EXIF orientation must not turn it.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise FrameError("undecodable", f"{what} cannot be decoded")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


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

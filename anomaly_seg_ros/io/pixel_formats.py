# SPDX-License-Identifier: Apache-2.0
"""Decodes image messages of all pixel formats to RGB; errors name every fault of a message.

Works on anything with the fields of ``sensor_msgs/Image`` or ``CompressedImage``: messages in the
node, plain data from a bag.

NumPy and OpenCV read 8-bit colour and grey, 16-bit, Bayer, YUV and float images: cv_bridge would
add nothing, ignores row padding in its PyPI build, and breaks on NumPy 2 in older ones.
"""

from __future__ import annotations

from typing import Any, Protocol

import cv2
import numpy as np

from anomaly_seg_ros.errors import ImageError, first_line
from anomaly_seg_ros.io.bit_depth import BitDepth
from anomaly_seg_ros.io.compressed_format import RGB, read_format
from anomaly_seg_ros.io.images import image_fault
from anomaly_seg_ros.io.safe_yaml_json import short_repr


class RawImageFields(Protocol):
    """The fields of sensor_msgs/Image without its header."""

    @property
    def height(self) -> int:
        """Rows."""

    @property
    def width(self) -> int:
        """Columns."""

    @property
    def encoding(self) -> str:
        """As in sensor_msgs/image_encodings."""

    @property
    def is_bigendian(self) -> bool:
        """Byte order of samples wider than 8 bits."""

    @property
    def step(self) -> int:
        """Bytes from one row to the next."""

    @property
    def data(self) -> Any:
        """Bytes."""


class CompressedImageFields(Protocol):
    """The fields of sensor_msgs/CompressedImage without its header."""

    @property
    def format(self) -> str:
        """As image_transport writes it."""

    @property
    def data(self) -> Any:
        """Bytes."""


# Encoding -> channels, and the cvtColor code to RGB (None: it is RGB). A conversion is one
# SIMD pass (0.4 ms for 2 MP); a reversed view would cost the network a 9 ms copy.
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
# 16-bit encoding -> the 8-bit encoding it is scaled to.
_COLOUR_16BIT = {
    "rgb16": "rgb8", "bgr16": "bgr8", "16UC3": "bgr8", "rgba16": "rgba8", "bgra16": "bgra8",
    "16UC4": "bgra8", "mono16": "mono8", "16UC1": "mono8",
    **{f"bayer_{name}16": f"bayer_{name}8" for name in _BAYER},
}  # fmt: skip
_WITHOUT_ALPHA: dict[int | None, int | None] = {
    cv2.COLOR_RGBA2RGB: None,
    cv2.COLOR_BGRA2RGB: cv2.COLOR_BGR2RGB,
}
# Packed 4:2:2, two bytes a pixel.
_YUV422 = {
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
    "yuyv": cv2.COLOR_YUV2RGB_YUY2,
}
# Planar 4:2:0: a luma plane, then half as many rows of interleaved chroma.
_YUV420 = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21}
_FLOAT = {"32FC1": 1, "32FC3": 3}
# Decodes a JPEG directly to RGB, 0.8 ms less at 2 MP; OpenCV before 4.11 has only BGR.
_READ_RGB: int | None = getattr(cv2, "IMREAD_COLOR_RGB", None)
ENCODINGS = (*_COLOUR_8BIT, *_COLOUR_16BIT, *_YUV422, *_YUV420, *_FLOAT)


class FrameError(ImageError):
    """A message without a usable image; ``kind`` is the class of fault, for counters."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def rgb_from_raw(image: RawImageFields, depth: BitDepth | None = None) -> np.ndarray:
    """Decodes an uncompressed image.

    Float images must lie in [0, 1].

    Args:
        image: The message.
        depth: Scales 16-bit images and records the bits they use; None keeps their high byte.

    Returns:
        (H, W, 3) uint8 RGB; for ``rgb8`` a read-only view of the data, with the row padding as
        strides.

    Raises:
        FrameError: The message holds no usable image; names the encoding and the sizes.
    """
    try:
        return _rgb_from_raw(image, depth or BitDepth())
    except (cv2.error, MemoryError) as error:  # such as a Bayer image of one row
        what = f"{short_repr(image.encoding)} image of {image.width} x {image.height} pixels"
        raise FrameError("undecodable", f"{what}: {_reason(error)}") from error


def rgb_from_compressed(image: CompressedImageFields, depth: BitDepth | None = None) -> np.ndarray:
    """Decodes a JPEG, PNG, WebP, PNM, BMP or TIFF.

    The order of the colours and a Bayer pattern are those of ``format``; see
    :mod:`~anomaly_seg_ros.io.compressed_format`. An EXIF orientation is ignored.

    Args:
        image: The message.
        depth: As for :func:`rgb_from_raw`.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        FrameError: The image is empty, truncated, too large or of another kind, or its ``format``
            is unsupported.
    """
    try:
        return _decompress(image, depth or BitDepth())
    except (cv2.error, MemoryError) as error:
        what = f"{short_repr(image.format)} image"
        raise FrameError("undecodable", f"{what}: {_reason(error)}") from error


def _reason(error: cv2.error | MemoryError) -> str:
    return getattr(error, "err", None) or first_line(error)


def _rgb_from_raw(message: RawImageFields, depth: BitDepth) -> np.ndarray:
    encoding, height, width = message.encoding, message.height, message.width
    if height == 0 or width == 0:
        raise FrameError("zero size", f"{short_repr(encoding)} image of {width} x {height} pixels")
    if encoding in _COLOUR_8BIT:
        channels, code = _COLOUR_8BIT[encoding]
        return _converted(_pixels(message, np.dtype(np.uint8), channels), code)
    if encoding in _COLOUR_16BIT:
        channels, code = _COLOUR_8BIT[_COLOUR_16BIT[encoding]]
        samples = _pixels(message, np.dtype(">u2" if message.is_bigendian else "<u2"), channels)
        if channels == 4:  # transparency would count as a bright sample
            samples, code = samples[..., :3], _WITHOUT_ALPHA[code]
        return _converted(depth.to_8_bit(samples), code)
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
        "unknown encoding", f"encoding {short_repr(encoding)} is not one of {', '.join(ENCODINGS)}"
    )


def _pixels(
    message: RawImageFields, dtype: np.dtype, channels: int, rows: int | None = None
) -> np.ndarray:
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
    # Strides need no copy for padding, and allow any step.
    return np.ndarray(
        (rows, message.width, channels),
        dtype,
        buffer=np.frombuffer(message.data, np.uint8),
        strides=(message.step, channels * dtype.itemsize, dtype.itemsize),
    )


def _converted(pixels: np.ndarray, code: int | None) -> np.ndarray:
    return pixels if code is None else cv2.cvtColor(pixels, code)


def _rgb_from_float(message: RawImageFields, channels: int) -> np.ndarray:
    dtype = np.dtype(">f4" if message.is_bigendian else "<f4")
    values = _pixels(message, dtype, channels).astype(np.float32)
    code = cv2.COLOR_GRAY2RGB if channels == 1 else cv2.COLOR_BGR2RGB
    return cv2.cvtColor(_float_to_8_bit(values, f"'{message.encoding}' image"), code)


def _float_to_8_bit(values: np.ndarray, what: str) -> np.ndarray:
    if not np.isfinite(values).all():
        count = values.size - np.count_nonzero(np.isfinite(values))
        raise FrameError("not finite", f"{what}: {count} values not finite")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        raise FrameError(
            "out of range",
            f"{what}: values from {low:g} to {high:g}, not in [0, 1]: have them divided by the "
            "value of white, or sent as 8 or 16 bits",
        )
    return cv2.convertScaleAbs(values, alpha=255.0)


def _decompress(message: CompressedImageFields, depth: BitDepth) -> np.ndarray:
    data = bytes(message.data)
    what = f"compressed image {short_repr(message.format)} of {len(data)} bytes"
    if not data:
        raise FrameError("zero size", what)
    stated = read_format(message.format)
    if stated.refusal:
        raise FrameError("unsupported format", f"{what}: {stated.refusal}")
    # OpenCV silently fills the missing part of a truncated file with grey.
    if (fault := image_fault(data)) is not None:
        for kind in ("truncated", "damaged"):
            if kind in fault:
                raise FrameError(kind, f"{what}: {fault}")
        raise FrameError("undecodable", f"{what} cannot be decoded: {fault}")
    # The picture must match camera_info, so an EXIF orientation must not turn it.
    flags = cv2.IMREAD_IGNORE_ORIENTATION | cv2.IMREAD_ANYDEPTH
    if stated.bayer:
        flags = cv2.IMREAD_UNCHANGED  # ignores the orientation as well
    elif stated.order == RGB:
        flags |= cv2.IMREAD_COLOR  # decodes to "BGR", which here is RGB
    else:
        flags |= _READ_RGB or cv2.IMREAD_COLOR
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise FrameError("undecodable", f"{what} cannot be decoded")
    if stated.bayer and image.ndim != 2:
        channels = image.shape[2]
        raise FrameError(
            "unsupported format", f"{what}: a picture of {channels} channels is no Bayer mosaic"
        )
    if image.dtype == np.uint8 and stated.high_bytes:
        image = image.astype(np.uint16) << 8
    if image.dtype == np.uint16:
        image = depth.to_8_bit(np.atleast_3d(image))
    elif image.dtype != np.uint8:
        image = _float_to_8_bit(image.astype(np.float32), what)
    if stated.bayer:
        return cv2.cvtColor(image, _BAYER[stated.bayer])
    if stated.order == RGB or _READ_RGB:
        return image
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)

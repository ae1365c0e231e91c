"""The three messages of an evaluation bag as plain data, with the field names of sensor_msgs."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from anomaly_seg_ros.errors import ImageError
from anomaly_seg_ros.images import image_fault

# encoding -> (channels, OpenCV conversion to RGB or None)
_EIGHT_BIT = {
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "8UC3": (3, cv2.COLOR_BGR2RGB),  # OpenCV's own order, as cv_bridge publishes it
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    "8UC4": (4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
    "8UC1": (1, cv2.COLOR_GRAY2RGB),
    # OpenCV names a Bayer pattern by its second row, ROS by its first.
    "bayer_rggb8": (1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": (1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (1, cv2.COLOR_BayerGB2RGB),
    "uyvy": (2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422": (2, cv2.COLOR_YUV2RGB_UYVY),
    "yuyv": (2, cv2.COLOR_YUV2RGB_YUY2),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2RGB_YUY2),
}
_GREY_DTYPES = {"mono8": np.uint8, "8UC1": np.uint8, "mono16": np.uint16, "16UC1": np.uint16}


@dataclass(frozen=True)
class RawImage:
    """A sensor_msgs/Image without its header.

    Attributes:
        height: Rows.
        width: Columns.
        encoding: Such as "rgb8".
        is_bigendian: Byte order of samples wider than 8 bits.
        step: Bytes from one row to the next, at least the row's own bytes.
        data: (step * height,) uint8, read-only.
    """

    height: int
    width: int
    encoding: str
    is_bigendian: bool
    step: int
    data: np.ndarray = field(repr=False)

    def to_rgb(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB in C order.

        Raises:
            ImageError: An encoding that is not one of 8 bits a channel, or too few bytes.
        """
        if self.encoding not in _EIGHT_BIT:
            raise ImageError(f"encoding '{self.encoding}' is not supported as a colour image")
        channels, conversion = _EIGHT_BIT[self.encoding]
        rows = self._rows(channels)
        if channels > 1:
            rows = rows.reshape(self.height, self.width, channels)
        if conversion is None:
            return np.ascontiguousarray(rows)
        try:
            return cv2.cvtColor(rows, conversion)
        except cv2.error as error:  # such as YUV of odd width
            raise ImageError(
                f"encoding '{self.encoding}' at {self.width}x{self.height}: {error.err}"
            ) from error

    def to_grey(self) -> np.ndarray:
        """(H, W) uint8 or uint16 of a one-channel image, values unchanged.

        Raises:
            ImageError: Another encoding, or too few bytes.
        """
        if self.encoding not in _GREY_DTYPES:
            expected = ", ".join(_GREY_DTYPES)
            raise ImageError(f"encoding '{self.encoding}', expected one of {expected}")
        dtype = np.dtype(_GREY_DTYPES[self.encoding])
        rows = np.ascontiguousarray(self._rows(dtype.itemsize))
        return rows.view(dtype.newbyteorder(">" if self.is_bigendian else "<")).astype(dtype)

    def _rows(self, bytes_per_pixel: int) -> np.ndarray:
        """(H, W * bytes_per_pixel) uint8 view without the padding at the row ends."""
        row = self.width * bytes_per_pixel
        if self.height == 0 or self.width == 0:
            raise ImageError(f"the image has no pixels ({self.width}x{self.height})")
        if self.step < row or self.data.size < self.step * self.height:
            raise ImageError(
                f"{self.width}x{self.height} {self.encoding} with step {self.step} "
                f"does not fit {self.data.size} bytes"
            )
        return self.data[: self.step * self.height].reshape(self.height, self.step)[:, :row]


@dataclass(frozen=True)
class CompressedImage:
    """A sensor_msgs/CompressedImage without its header.

    Attributes:
        format: Such as "jpeg" or "rgb8; jpeg compressed bgr8".
        data: (N,) uint8, the encoded file, read-only.
    """

    format: str
    data: np.ndarray = field(repr=False)

    def to_rgb(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB in C order.

        Raises:
            ImageError: Not an image of 8 bits a channel, or truncated.
        """
        fault = image_fault(self.data.tobytes())
        if fault:
            raise ImageError(f"format '{self.format}': {fault}")
        try:
            array = cv2.imdecode(self.data, cv2.IMREAD_COLOR)
        except cv2.error as error:
            raise ImageError(f"format '{self.format}': {error.err}") from error
        if array is None:
            raise ImageError(f"format '{self.format}': not a readable image")
        return cv2.cvtColor(array, cv2.COLOR_BGR2RGB)


@dataclass(frozen=True)
class CameraInfo:
    """A sensor_msgs/CameraInfo without its header.

    Attributes:
        height: Rows of the camera's image.
        width: Columns.
        distortion_model: Such as "plumb_bob"; empty if uncalibrated.
        d: Distortion coefficients.
        k: (9,) intrinsic matrix, row by row; all zero if uncalibrated.
        r: (9,) rectification matrix.
        p: (12,) projection matrix.
    """

    height: int
    width: int
    distortion_model: str
    d: np.ndarray
    k: np.ndarray
    r: np.ndarray
    p: np.ndarray

    @property
    def is_calibrated(self) -> bool:
        """Whether the focal length is known (K[0] is not zero)."""
        return bool(self.k[0] != 0)

# SPDX-License-Identifier: Apache-2.0
"""The three messages of an evaluation bag as plain data with the field names of sensor_msgs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from anomaly_seg_ros.errors import ImageError
from anomaly_seg_ros.io.bit_depth import BitDepth
from anomaly_seg_ros.io.pixel_formats import rgb_from_compressed, rgb_from_raw

_GREY_DTYPES = {"mono8": np.uint8, "8UC1": np.uint8, "mono16": np.uint16, "16UC1": np.uint16}


@dataclass(frozen=True)
class RawImage:
    """A sensor_msgs/Image without its header.

    Attributes:
        height: Rows.
        width: Columns.
        encoding: Encoding of the pixels, such as "rgb8".
        is_bigendian: Byte order of samples wider than 8 bits.
        step: Bytes from one row to the next, at least those of a row.
        data: (step * height,) uint8, read-only.
    """

    height: int
    width: int
    encoding: str
    is_bigendian: bool
    step: int
    data: np.ndarray = field(repr=False)

    def to_rgb(self, depth: BitDepth | None = None) -> np.ndarray:
        """(H, W, 3) uint8 RGB in C order; ``depth`` scales 16-bit images.

        Raises:
            FrameError: The encoding is unknown, or the sizes do not fit.
        """
        return np.ascontiguousarray(rgb_from_raw(self, depth))

    def to_grey(self) -> np.ndarray:
        """(H, W) uint8 or uint16 values of a one-channel image, unchanged.

        Raises:
            ImageError: The encoding is another one, or bytes are missing.
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
        format: Format of the file, such as "jpeg" or "rgb8; jpeg compressed bgr8".
        data: (N,) uint8, the encoded file, read-only.
    """

    format: str
    data: np.ndarray = field(repr=False)

    def to_rgb(self, depth: BitDepth | None = None) -> np.ndarray:
        """(H, W, 3) uint8 RGB in C order; ``depth`` scales 16-bit images.

        Raises:
            FrameError: The image is unreadable or truncated.
        """
        return rgb_from_compressed(self, depth)


@dataclass(frozen=True)
class CameraInfo:
    """A sensor_msgs/CameraInfo without its header.

    Attributes:
        height: Rows of the camera's image.
        width: Columns of the camera's image.
        distortion_model: Name such as "plumb_bob"; empty if uncalibrated.
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

# SPDX-License-Identifier: Apache-2.0
"""Bringing frames of any size to the network: resized, at full resolution, or in tiles."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.inference.options import (
    FULL,
    INFERENCE_MODES,
    RESIZED,
    TILED,
    SegmenterOptions,
)

# Small frames are enlarged no further than this on their way to the model's own size: beyond it
# the network would see only blur, at full cost.
MAX_ENLARGEMENT = 2.0

Size = tuple[int, int]


def size_of(shape: tuple[int, ...]) -> Size:
    """Returns (height, width) from the shape of an image."""
    return shape[0], shape[1]


def size_for(rows: int, size: Size, multiple: int) -> Size:
    """Chooses the model's own size, or a smaller one of the same shape for a small frame.

    Args:
        rows: Height of the frame.
        size: The model's own (height, width).
        multiple: Height and width must be multiples of this.

    Returns:
        ``size`` where the frame has at least half its height; otherwise a size of about twice the
        frame's height.
    """
    factor = MAX_ENLARGEMENT * rows / size[0]
    if factor >= 1:
        return size
    height, width = (max(multiple, round(factor * v / multiple) * multiple) for v in size)
    return height, width


def resized(image: np.ndarray, size: Size) -> np.ndarray:
    """Resizes (H, W, 3) uint8 to (height, width), as the Segmenter and training both do.

    Averages areas where both sides shrink (plain bilinear would alias), else bilinear.
    """
    if image.shape[:2] == size:
        return image
    shrinks = image.shape[0] > size[0] and image.shape[1] > size[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, size[::-1], interpolation=method)


@dataclass(frozen=True)
class Framing:
    """How frames reach the network; :meth:`choose` builds it from checked options.

    Attributes:
        mode: ``resized``: one pass over the frame resized to ``size``. ``full``: one pass over
            the frame at its own size. ``tiled``: overlapping tiles, one after another, over the
            frame at its own size or, where ``size`` is set, resized to it first.
        size: (height, width) to which frames are resized; None keeps their own.
        at_most: Resize small frames to less than ``size``; see :func:`size_for`.
        tile: (height, width) of a tile; None without tiles.
        overlap: Minimum overlap of neighbouring tiles, in pixels.
        multiple: The network takes heights and widths that are multiples of this.
        usual_size: (height, width) to try the network with before the first frame.
    """

    mode: str
    size: Size | None
    at_most: bool
    tile: Size | None
    overlap: int
    multiple: int
    usual_size: Size

    @classmethod
    def choose(cls, options: SegmenterOptions, model_size: Size, multiple: int) -> Framing:
        """Checks the options and fills in what they leave to the model.

        Args:
            options: The inference mode, inference size, tile size and overlap are read, the last
                two in mode ``tiled`` only. Zeros for a size mean the same as None.
            model_size: The model's own inference size.
            multiple: The network's ``size_multiple``.

        Raises:
            ParameterError: Names an option with an unknown or unsuitable value.
        """
        mode, tile_overlap = options.inference_mode, options.tile_overlap
        if mode not in INFERENCE_MODES:
            raise ParameterError(
                f"inference mode {mode!r}: expected one of {', '.join(INFERENCE_MODES)}"
            )
        size = _given(options.inference_size)
        if mode == FULL and size is not None:
            raise ParameterError(
                f"inference size {size[0]} x {size[1]}: mode 'full' keeps the frame's own size; "
                "leave both at 0, or take mode 'resized' or 'tiled'"
            )
        at_most = mode == RESIZED and size is None
        if mode == RESIZED:
            size = size or model_size
        if size is not None:
            size = _checked("inference size", size, multiple)
        if mode != TILED:
            return cls(mode, size, at_most, None, 0, multiple, size or model_size)
        tile = _checked("tile size", _given(options.tile_size) or model_size, multiple)
        if not 0 <= tile_overlap <= min(tile) - multiple:
            raise ParameterError(
                f"tile overlap {tile_overlap}: expected 0 to {min(tile) - multiple} for tiles of "
                f"{tile[0]} x {tile[1]} (a tile less {multiple}, of which the network wants "
                "multiples)"
            )
        return cls(mode, size, False, tile, tile_overlap, multiple, size or tile)

    def describe(self) -> str:
        """Describes it in words, for logs and messages."""
        pixels = "full resolution"
        if self.size is not None:
            bound = "at most " if self.at_most else ""
            pixels = "resized to {}{} x {}".format(bound, *self.size)
        if self.tile is None:
            return pixels
        return "{}, tiles of {} x {} with overlap {}".format(pixels, *self.tile, self.overlap)

    def fit(self, image: np.ndarray) -> np.ndarray:
        """Brings a frame to a size that the network takes.

        At full resolution the frame keeps its pixels and is padded at the bottom and on the right
        by less than ``multiple`` pixels, which are cropped from the results. The padding mirrors
        the frame, because streaks (a repeated last row) and edges (zeros) look anomalous, while a
        mirrored border has the texture of the real one. On two real frames whose continuation is
        known, ``max_logit`` of the default model is off by 0.27 and 0.47 in the outermost 32
        pixels with mirroring, and by 1.0 to 1.2 with the other paddings.

        Args:
            image: (H, W, 3) uint8, any strides.

        Returns:
            (H', W', 3) uint8 in C order, writeable; may be ``image`` itself.
        """
        size = self.size
        if size is not None and self.at_most:
            size = size_for(image.shape[0], size, self.multiple)
        if size is not None and image.shape[:2] != size:
            return resized(image, size)
        bottom, right = (-length % self.multiple for length in image.shape[:2])
        if bottom or right:
            image = np.ascontiguousarray(image)
            return cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REFLECT_101)
        if not image.flags.c_contiguous or not image.flags.writeable:
            image = image.copy()
        return image


def _given(size: Size | None) -> Size | None:
    return None if size is None or tuple(size) == (0, 0) else size


def _checked(what: str, size: Size, multiple: int) -> Size:
    height, width = (int(v) for v in size)
    nearest = tuple(max(multiple, round(v / multiple) * multiple) for v in (height, width))
    if (height, width) != nearest:
        raise ParameterError(
            f"{what} {height} x {width}: height and width must be positive multiples of "
            f"{multiple}, the nearest is {nearest[0]} x {nearest[1]}"
        )
    return height, width

# SPDX-License-Identifier: Apache-2.0
"""How label files encode stored values: as colours, palette indices or panoptic segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from anomaly_seg_ros.errors import ImageError
from anomaly_seg_ros.io.images import read_image, read_label

MOST_COLOURS = 255
# Value of undefined colours, if these are allowed.
UNDEFINED = 255
# Ids of segments in COCO's panoptic format, three bytes; 0 are the pixels of none.
NUM_SEGMENTS = 1 << 24
_VOID = 0


class LabelCode(Protocol):
    """Reads the stored values of a label file."""

    def read(self, path: Path) -> np.ndarray:
        """Reads a label file.

        Args:
            path: A lossless image.

        Returns:
            (H, W) uint8 stored values.

        Raises:
            ImageError: The file is unreadable or holds what the code does not define.
        """


@dataclass(frozen=True)
class ColourCode:
    """The colours of a label image.

    Attributes:
        colours: RGB, all different, at most 255; a colour stands for its position.
        strict: True makes any other colour an error; False turns it into 255.
    """

    colours: tuple[tuple[int, int, int], ...]
    strict: bool = True

    def read(self, path: Path) -> np.ndarray:
        """(H, W) uint8 positions in ``colours``; see :class:`LabelCode`."""
        image = _read_colours(path)
        codes = _packed(self.colours)
        order = np.argsort(codes)
        pixels = _packed(image)
        nearest = np.searchsorted(codes[order], pixels).clip(max=len(order) - 1)
        found = codes[order][nearest] == pixels
        if self.strict and not found.all():
            red, green, blue = image[~found][0]
            raise ImageError(
                f"{path}: holds the colour #{red:02x}{green:02x}{blue:02x}, which is no label "
                "of this data set"
            )
        return np.where(found, order.astype(np.uint8)[nearest], np.uint8(UNDEFINED))


@dataclass(frozen=True)
class PaletteCode:
    """PNG files with a palette, whose indices are the values; the colours are for people."""

    def read(self, path: Path) -> np.ndarray:
        """(H, W) uint8 palette indices, or grey values; see :class:`LabelCode`."""
        return read_label(path, palette=True)


@dataclass(frozen=True, eq=False)
class SegmentCode:
    """The segments of one panoptic PNG (Kirillov et al., CVPR 2019, in COCO's format).

    Attributes:
        ids: (N,) uint32 below 2^24, the segments' ids ``red + 256 green + 65536 blue``.
        values: (N,) uint8 below 255, the value of each.
    """

    ids: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, segments: dict[int, int]) -> SegmentCode:
        """Builds the code from ``{id: value}``; pixels of no segment (id 0) get 0."""
        segments = {_VOID: 0, **segments}
        ids = np.fromiter(segments, np.uint32, len(segments))
        return cls(ids, np.fromiter(segments.values(), np.uint8, len(segments)))

    def read(self, path: Path) -> np.ndarray:
        """(H, W) uint8 values of the segments; see :class:`LabelCode`."""
        four_bytes = cv2.cvtColor(_read_colours(path), cv2.COLOR_RGB2RGBA)
        ids = four_bytes.view("<u4")[..., 0] & (NUM_SEGMENTS - 1)
        # A search takes seven times as long. Of the table only the pages in use cost memory.
        table = np.zeros(NUM_SEGMENTS, np.uint8)
        table[self.ids] = self.values + 1
        found = table[ids]
        if not found.all():
            raise ImageError(
                f"{path}: holds the segment {ids[found == 0][0]}, which is not listed"
            )
        return found - 1


def _read_colours(path: Path) -> np.ndarray:
    if path.suffix.lower() in (".jpg", ".jpeg"):
        raise ImageError(f"{path}: a JPEG cannot hold labels (lossy); use PNG")
    return read_image(path, upright=False)


def _packed(colours: np.ndarray | Sequence[Sequence[int]]) -> np.ndarray:
    """Packs colours, one uint32 each: (..., 3) -> (...)."""
    red, green, blue = np.moveaxis(np.asarray(colours, np.uint32), -1, 0)
    return (red << 16) | (green << 8) | blue

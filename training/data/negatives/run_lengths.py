# SPDX-License-Identifier: Apache-2.0
"""Masks as run lengths in column order, as COCO stores them; parts are decoded on demand.

A mask takes time in proportion to its outline this way. Decoding whole images would take most of
the time of indexing COCO.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as rle

# (top, left, bottom, right), with exclusive ends.
Box = tuple[int, int, int, int]


class RunLengths:
    """A mask of an image.

    Args:
        code: Compressed mask of pycocotools, in which only the first run may be empty.
    """

    def __init__(self, code: dict[str, Any]) -> None:
        self.code = code
        self._cut: tuple[Box, np.ndarray] | None = None

    @classmethod
    def from_polygons(cls, polygons: list[Any], size: tuple[int, int]) -> RunLengths:
        """Draws checked polygons of alternating x and y.

        Args:
            polygons: At least three points each.
            size: (height, width) of the image.
        """
        codes = rle.frPyObjects(polygons, *size)
        return cls(codes[0] if len(codes) == 1 else rle.merge(codes))

    @classmethod
    def from_runs(cls, runs: Sequence[int] | np.ndarray, size: tuple[int, int]) -> RunLengths:
        """Takes the lengths of alternating runs of 0 and 1, which fill the image."""
        changes, times = np.unique(np.cumsum(runs[:-1]), return_counts=True)
        # Empty runs change the value twice.
        changes = changes[(times % 2 == 1) & (changes < size[0] * size[1])]
        counts = np.diff(changes, prepend=0, append=size[0] * size[1]).tolist()
        return cls(rle.frPyObjects({"size": [*size], "counts": counts}, *size))

    @classmethod
    def from_mask(cls, mask: np.ndarray) -> RunLengths:
        """Encodes an (H, W) mask."""
        return cls(rle.encode(np.asfortranarray(mask, np.uint8)))

    @classmethod
    def union(cls, masks: Sequence[RunLengths]) -> RunLengths:
        """Joins masks of one image."""
        return masks[0] if len(masks) == 1 else cls(rle.merge([mask.code for mask in masks]))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        height, width = self.code["size"]
        return int(height), int(width)

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(rle.area(self.code))

    @property
    def box(self) -> Box:
        """Box around all pixels; four zeros for an empty mask."""
        left, top, width, height = map(int, rle.toBbox(self.code).tolist())
        return (top, left, top + height, left + width) if width and height else (0, 0, 0, 0)

    def cut(self, box: Box) -> np.ndarray:
        """Decodes the part within a box, which lies in the image; (h, w) bool in column order."""
        # The same part is asked for by one rule after the other.
        if self._cut is None or self._cut[0] != box:
            self._cut = box, self._decode(box)
        return self._cut[1]

    def _decode(self, box: Box) -> np.ndarray:
        top, left, bottom, right = box
        rows, height = int(self.code["size"][0]), bottom - top
        ends = np.add.accumulate(_decompressed(self.code["counts"]))
        starts, ends = ends[: len(ends) // 2 * 2 : 2], ends[1::2]
        part = slice(ends.searchsorted(left * rows, "right"), starts.searchsorted(right * rows))
        starts, ends = starts[part] - left * rows, ends[part] - left * rows
        columns = starts // rows
        first = starts - columns * rows
        last = ends - starts + first
        if last.size and last.max() > rows:  # runs that reach into the next column
            return np.asfortranarray(_filled(starts, ends, right - left, rows)[top:bottom])
        first, last = first - top, last - top
        if first.size and (first.min() < 0 or last.max() > height):
            inside = (last > 0) & (first < height)
            columns, first, last = columns[inside], first[inside], last[inside]
            first, last = np.maximum(first, 0), np.minimum(last, height)
        columns = columns * height
        return _filled(columns + first, columns + last, right - left, height)


def _filled(starts: np.ndarray, ends: np.ndarray, columns: int, rows: int) -> np.ndarray:
    """Draws runs of pixels in column order into an empty mask, (rows, columns) bool."""
    edges = np.empty(2 * len(starts) + 2, np.int64)
    edges[0], edges[1:-1:2], edges[2:-1:2], edges[-1] = 0, starts, ends, columns * rows
    edges[1], edges[-2] = max(edges[1], 0), min(edges[-2], columns * rows)
    values = np.zeros(len(edges) - 1, bool)
    values[1::2] = True
    return values.repeat(edges[1:] - edges[:-1]).reshape(columns, rows).T


# Value of each character of a compressed mask: five bits, the highest of which is the sign unless
# a sixth says that the number continues.
_BITS = (np.arange(256) - 48) & 0x3F
_BITS = np.where(_BITS & 0x20, _BITS & 0x1F, (_BITS ^ 0x10) - 0x10)
_CONTINUED = 48 + 0x20


def _decompressed(code: bytes) -> np.ndarray:
    """Decodes run lengths that pycocotools compressed.

    Numbers have their lowest bits first; from the fourth number on, they are differences to the
    last but one.
    """
    characters = np.frombuffer(code, np.uint8)
    ends = (characters < _CONTINUED).nonzero()[0]
    starts = np.empty_like(ends)
    starts[0], starts[1:] = 0, ends[:-1] + 1
    places = np.arange(len(characters)) - starts.repeat(ends - starts + 1)
    values = np.add.reduceat(_BITS[characters] << (5 * places), starts)
    np.add.accumulate(values[1::2], out=values[1::2])
    np.add.accumulate(values[2::2], out=values[2::2])
    return values

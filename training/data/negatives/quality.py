"""What counts as a whole, non-occluded object.

"Non-occluded" is defined nowhere in the literature that asks for it (Top-K OvR takes
"non-occluded" COCO objects; no public code implements it). Here an object is kept if no sign
speaks against it: it is not cut off by the frame, no other object meets more than a fifth of its
outline, and its mask is one piece without holes.

An instance mask does not say which of two touching objects is in front. One case is clear: where
the box of the other holds the whole object (a cup on a table, a dog on a sofa), the object cannot
be what continues behind it, so it stands in front and such neighbours do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

# A piece smaller than this share of the object is annotation noise, not a part of it.
_SPECK = 0.02


@dataclass(frozen=True)
class Instance:
    """One annotated object in its image.

    Attributes:
        category: Class name.
        identity: Of the annotation, for errors and logs.
        top: First row of its box.
        left: First column of its box.
        mask: (h, w) bool within the box.
        crowd: The mask covers a group (COCO "iscrowd").
        hidden: Share of the object that something hides, where the annotation tells (ADE20K).
        fault: Why there is no mask, "" if there is one.
    """

    category: str
    identity: str
    top: int
    left: int
    mask: np.ndarray
    crowd: bool = False
    hidden: float | None = None
    fault: str = ""

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(top, left, bottom, right), the end exclusive."""
        height, width = self.mask.shape
        return self.top, self.left, self.top + height, self.left + width

    @classmethod
    def unusable(cls, category: str, identity: str, fault: str) -> Instance:
        """An object whose annotation gives no mask: it is left out, and hides nothing."""
        return cls(category, identity, 0, 0, np.zeros((0, 0), bool), fault=fault)

    @classmethod
    def from_mask(
        cls, mask: np.ndarray, category: str, identity: str, **attributes: Any
    ) -> Instance:
        """Crops an (H, W) mask of the whole image; an empty mask gives an empty instance."""
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not rows.size:
            return cls(category, identity, 0, 0, np.zeros((0, 0), bool), **attributes)
        top, left = int(rows[0]), int(columns[0])
        crop = mask[top : rows[-1] + 1, left : columns[-1] + 1].astype(bool)
        return cls(category, identity, top, left, crop, **attributes)


@dataclass(frozen=True)
class Quality:
    """The rules; the first one that an object breaks is counted.

    Attributes:
        crowds: Keep masks of groups.
        min_area: Pixels of the mask; fewer show no texture.
        min_side: Shorter side of the box in pixels.
        border: The box keeps this distance to the border of the image, in pixels, else the frame
            may cut the object off. 0 keeps all.
        max_hidden: Largest share of the object that may be hidden, where the annotation tells.
        max_overlap: Where it does not: largest share of the rim around the object that other
            instances may cover.
        rim: Width of that rim in pixels; instance masks seldom meet exactly.
        enclosing: Count neighbours whose box holds the whole object, too.
        max_holes: Largest share of holes in the filled mask: something stands in front of it.
        max_pieces: Connected pieces, without specks: an occluder cuts an object in two.
    """

    crowds: bool = False
    min_area: int = 200
    min_side: int = 10
    border: int = 2
    max_hidden: float = 0.05
    max_overlap: float = 0.2
    rim: int = 3
    enclosing: bool = False
    max_holes: float = 0.05
    max_pieces: int = 1

    def broken_rule(
        self, instance: Instance, others: Sequence[Instance], size: tuple[int, int]
    ) -> str | None:
        """Names the first rule that an object breaks.

        Args:
            instance: The object.
            others: All other instances of the image; not looked at where the annotation tells
                what is hidden.
            size: (height, width) of the image.

        Returns:
            The fault of its annotation, "crowd", "too small", "cut off by the border", "occluded",
            "holes", "in pieces"; None for a good object.
        """
        mask = instance.mask
        if instance.fault:
            return instance.fault
        if instance.crowd and not self.crowds:
            return "crowd"
        if min(mask.shape) < self.min_side or np.count_nonzero(mask) < max(1, self.min_area):
            return "too small"
        top, left, bottom, right = instance.box
        if min(top, left, size[0] - bottom, size[1] - right) < self.border:
            return "cut off by the border"
        if self._is_occluded(instance, others):
            return "occluded"
        if hole_fraction(mask) > self.max_holes:
            return "holes"
        if count_pieces(mask) > self.max_pieces:
            return "in pieces"
        return None

    def _is_occluded(self, instance: Instance, others: Sequence[Instance]) -> bool:
        if instance.hidden is not None:
            return instance.hidden > self.max_hidden
        return rim_overlap(instance, others, self) > self.max_overlap


def rim_overlap(instance: Instance, others: Sequence[Instance], options: Quality) -> float:
    """Share of the rim around an object that other instances cover.

    The rim holds the pixels within ``options.rim`` (chessboard distance) of the object; pixels
    beyond the image's border belong to it and are covered by nothing.
    """
    rim = options.rim
    if rim < 1:
        return 0.0
    mask = np.pad(instance.mask, rim).astype(np.uint8)
    outside = cv2.dilate(mask, np.ones((2 * rim + 1, 2 * rim + 1), np.uint8)) > mask
    top, left = instance.top - rim, instance.left - rim
    covered = np.zeros(mask.shape, bool)
    for other in others:
        if options.enclosing or not _encloses(other, instance):
            _stamp(covered, other, top, left)
    return np.count_nonzero(covered & outside) / np.count_nonzero(outside)


def hole_fraction(mask: np.ndarray) -> float:
    """Area of the holes of an (h, w) mask over the area of the filled mask."""
    filled = np.zeros(mask.shape, np.uint8)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(filled, outlines, -1, 1, cv2.FILLED)
    return 1 - np.count_nonzero(mask) / max(1, np.count_nonzero(filled))


def count_pieces(mask: np.ndarray) -> int:
    """Number of 8-connected pieces of an (h, w) mask, without specks of under 2 % of it."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    return int(np.count_nonzero(areas > _SPECK * areas.sum()))


def _encloses(outer: Instance, inner: Instance) -> bool:
    top, left, bottom, right = outer.box
    inner_top, inner_left, inner_bottom, inner_right = inner.box
    return (
        top <= inner_top and left <= inner_left and bottom >= inner_bottom and right >= inner_right
    )


def _stamp(canvas: np.ndarray, instance: Instance, top: int, left: int) -> None:
    """Sets what of an instance lies in a window of the image that starts at (top, left)."""
    first_row, first_column, end_row, end_column = instance.box
    row, column = max(first_row, top), max(first_column, left)
    end_row, end_column = (
        min(end_row, top + canvas.shape[0]),
        min(end_column, left + canvas.shape[1]),
    )
    if row >= end_row or column >= end_column:
        return
    piece = instance.mask[
        row - first_row : end_row - first_row, column - first_column : end_column - first_column
    ]
    canvas[row - top : end_row - top, column - left : end_column - left] |= piece

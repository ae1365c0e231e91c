"""Rules for complete, non-occluded objects.

The literature does not define "non-occluded": Top-K OvR uses "non-occluded" COCO objects, but no
public code implements it. Here an object counts as complete unless there is evidence to the
contrary: it must not be cut off by the frame, other objects must not touch more than a fifth of
its outline, and its mask must be one piece without holes.

Instance masks do not show which of two touching objects is in front. One case is clear: if the
other object's box contains the whole object (a cup on a table, a dog on a sofa), the object cannot
continue behind it. It is in front, and such neighbours do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

# Faults of annotations without a usable mask; each completes a text such as "dropped: 3 ...".
ABSENT = "without a segmentation"
DAMAGED = "with a damaged segmentation"
OTHER_SIZE = "with a segmentation of another size"

# Pieces smaller than this share of the object are annotation noise.
_SPECK = 0.02


@dataclass(frozen=True)
class Instance:
    """One annotated object in its image.

    Attributes:
        category: Class name.
        identity: Name of the annotation, for errors and logs.
        top: First row of its box.
        left: First column of its box.
        mask: (h, w) bool within the box.
        crowd: Whether the mask covers a group (COCO "iscrowd").
        hidden: Occluded share of the object, if annotated (ADE20K).
        fault: Why there is no mask, or "" if there is one.
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
        """(top, left, bottom, right), with exclusive ends."""
        height, width = self.mask.shape
        return self.top, self.left, self.top + height, self.left + width

    @classmethod
    def unusable(cls, category: str, identity: str, fault: str) -> Instance:
        """Creates an object without a usable mask, which is left out and occludes nothing."""
        return cls(category, identity, 0, 0, np.zeros((0, 0), bool), fault=fault)

    @classmethod
    def from_mask(
        cls, mask: np.ndarray, category: str, identity: str, **attributes: Any
    ) -> Instance:
        """Creates an instance from an (H, W) mask of the whole image, which may be empty."""
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not rows.size:
            return cls(category, identity, 0, 0, np.zeros((0, 0), bool), **attributes)
        top, left = int(rows[0]), int(columns[0])
        crop = mask[top : rows[-1] + 1, left : columns[-1] + 1].astype(bool)
        return cls(category, identity, top, left, crop, **attributes)


@dataclass(frozen=True)
class Quality:
    """The rules; an object is counted under the first rule that it violates.

    Attributes:
        crowds: Keep masks of groups.
        min_area: Minimum area of the mask in pixels; smaller objects show no texture.
        min_side: Minimum of the shorter side of the box, in pixels.
        border: Minimum distance of the box from the border of the image, in pixels, because the
            frame may cut off closer objects. 0 keeps all.
        max_hidden: Maximum occluded share of the object, if annotated.
        max_overlap: Otherwise, maximum share of the rim around the object that other instances
            cover.
        rim: Width of that rim in pixels; instance masks seldom touch exactly.
        enclosing: Count neighbours whose box contains the whole object as well.
        max_holes: Maximum share of holes in the filled mask, which indicate an occluder.
        max_pieces: Maximum number of connected pieces, without specks; an occluder may cut an
            object in two.
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
        """Returns the first rule that an object violates.

        Args:
            instance: The object.
            others: All other instances of the image; not used if occlusion is annotated.
            size: (height, width) of the image.

        Returns:
            The fault of its annotation, "crowd", "too small", "cut off by the border", "occluded",
            "holes" or "in pieces"; None for a complete object.
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
    """Computes the share of the rim around an object that other instances cover.

    The rim consists of the pixels within ``options.rim`` (chessboard distance) of the object.
    Pixels outside of the image belong to it and count as not covered.
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
    """Area of the holes of an (h, w) mask, divided by the area of the filled mask."""
    filled = np.zeros(mask.shape, np.uint8)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(filled, outlines, -1, 1, cv2.FILLED)
    return 1 - np.count_nonzero(mask) / max(1, np.count_nonzero(filled))


def count_pieces(mask: np.ndarray) -> int:
    """Number of 8-connected pieces of an (h, w) mask, without specks below 2 % of its area."""
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
    """Marks an instance on a canvas whose top left corner is at (top, left) of the image."""
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

# SPDX-License-Identifier: Apache-2.0
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

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from training.data.negatives.run_lengths import Box, RunLengths

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
        shape: Mask of the whole image, which may be empty.
        box: Box around the mask.
        crowd: Whether the mask covers a group (COCO "iscrowd").
        hidden: Occluded share of the object, if annotated (ADE20K).
        fault: Why there is no mask, or "" if there is one.
    """

    category: str
    identity: str
    shape: RunLengths
    crowd: bool = False
    hidden: float | None = None
    fault: str = ""
    box: Box = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "box", self.shape.box)

    @property
    def mask(self) -> np.ndarray:
        """(h, w) bool within the box."""
        return self.shape.cut(self.box)

    @classmethod
    def unusable(cls, category: str, identity: str, fault: str) -> Instance:
        """Creates an object without a usable mask, which is left out and occludes nothing."""
        return cls.from_mask(np.zeros((1, 1), bool), category, identity, fault=fault)

    @classmethod
    def from_mask(
        cls, mask: np.ndarray, category: str, identity: str, **attributes: Any
    ) -> Instance:
        """Creates an instance from an (H, W) mask of the whole image."""
        return cls(category, identity, RunLengths.from_mask(mask), **attributes)


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
        self, instance: Instance, others: Iterable[Instance], size: tuple[int, int]
    ) -> str | None:
        """Returns the first rule that an object violates; the cheapest rules come first.

        Args:
            instance: The object.
            others: All other instances of the image, which are read when needed; not used if
                occlusion is annotated.
            size: (height, width) of the image.

        Returns:
            The fault of its annotation, "crowd", "too small", "cut off by the border", "occluded",
            "holes" or "in pieces"; None for a complete object.
        """
        if instance.fault:
            return instance.fault
        if instance.crowd and not self.crowds:
            return "crowd"
        top, left, bottom, right = instance.box
        side, area = min(bottom - top, right - left), instance.shape.area
        if side < self.min_side or area < max(1, self.min_area):
            return "too small"
        if min(top, left, size[0] - bottom, size[1] - right) < self.border:
            return "cut off by the border"
        if self._is_occluded(instance, others):
            return "occluded"
        mask = instance.mask
        outlines, holes = outlines_and_holes(mask)
        if holes > self.max_holes:
            return "holes"
        # A single outline without holes is a single piece.
        if (outlines > 1 or holes > 0) and count_pieces(mask) > self.max_pieces:
            return "in pieces"
        return None

    def _is_occluded(self, instance: Instance, others: Iterable[Instance]) -> bool:
        if instance.hidden is not None:
            return instance.hidden > self.max_hidden
        return rim_overlap(instance, others, self) > self.max_overlap


def rim_overlap(instance: Instance, others: Iterable[Instance], options: Quality) -> float:
    """Computes the share of the rim around an object that other instances cover.

    The rim consists of the pixels within ``options.rim`` (chessboard distance) of the object.
    Pixels outside of the image belong to it and count as not covered.
    """
    rim = options.rim
    if rim < 1:
        return 0.0
    top, left, bottom, right = instance.box
    around = (top - rim, left - rim, bottom + rim, right + rim)
    near = [
        other.shape
        for other in others
        if _meet(other.box, around) and (options.enclosing or not _encloses(other, instance))
    ]
    if not near:
        return 0.0
    # In column order, as the masks are; (w, h).
    mask = cv2.copyMakeBorder(_pixels(instance.mask), rim, rim, rim, rim, cv2.BORDER_CONSTANT)
    outside = cv2.dilate(mask, np.ones((2 * rim + 1, 2 * rim + 1), np.uint8)) - mask
    # The part of the rim that lies in the image.
    height, width = instance.shape.size
    first_row, first_column = max(0, top - rim), max(0, left - rim)
    inside = (first_row, first_column, min(height, bottom + rim), min(width, right + rim))
    covered = _pixels(RunLengths.union(near).cut(inside))
    row, column = first_row - around[0], first_column - around[1]
    seen = outside[column : column + covered.shape[0], row : row + covered.shape[1]]
    return cv2.countNonZero(covered & seen) / cv2.countNonZero(outside)


def count_pieces(mask: np.ndarray) -> int:
    """Number of 8-connected pieces of an (h, w) mask, without specks below 2 % of its area."""
    _, pieces = cv2.connectedComponents(_pixels(mask), connectivity=8)
    areas = np.bincount(pieces.ravel())[1:]
    return int(np.count_nonzero(areas > _SPECK * areas.sum()))


def outlines_and_holes(mask: np.ndarray) -> tuple[int, float]:
    """Number of outer outlines of an (h, w) mask, and the share of holes within them."""
    pixels = _pixels(mask)
    outlines, _ = cv2.findContours(pixels, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    filled = np.zeros(pixels.shape, np.uint8)
    cv2.drawContours(filled, outlines, -1, 1, cv2.FILLED)
    return len(outlines), 1 - cv2.countNonZero(pixels) / max(1, cv2.countNonZero(filled))


def _pixels(mask: np.ndarray) -> np.ndarray:
    """Mask as uint8, turned if it is in column order; OpenCV would copy it."""
    return np.ascontiguousarray(mask.T if mask.flags.f_contiguous else mask, bool).view(np.uint8)


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _encloses(outer: Instance, inner: Instance) -> bool:
    top, left, bottom, right = outer.box
    inner_top, inner_left, inner_bottom, inner_right = inner.box
    return (
        top <= inner_top and left <= inner_left and bottom >= inner_bottom and right >= inner_right
    )

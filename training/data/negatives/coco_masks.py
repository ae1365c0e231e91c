"""COCO's segmentations, checked before they are decoded.

pycocotools believes what stands in the file: an infinite coordinate ends the process, run lengths
that stop short leave the rest of the mask to whatever the memory held, and a compressed code that
breaks off is read beyond its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as rle

ABSENT = "without a segmentation"
DAMAGED = "with a damaged segmentation"
OTHER_SIZE = "with a segmentation of another size"
OUTSIDE = "outside the image"

# Polygons may reach beyond the image, but no farther than this many of its longer sides.
_FARTHEST = 16
# Bits of one run length; no image has longer runs.
_LONGEST_CODE = 40


class UnusableMaskError(ValueError):
    """A segmentation that gives no mask; the message is the rule that it breaks."""


def decode_mask(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """Decodes polygons, run lengths or compressed run lengths.

    Args:
        segmentation: As it stands in the file.
        size: (height, width) of the image.

    Returns:
        (H, W) uint8 of 0 and 1.

    Raises:
        UnusableMaskError: There is none, it is malformed, of another size or outside the image.
    """
    if isinstance(segmentation, dict) and segmentation:
        runs = _run_lengths(segmentation, size)
        values = (np.arange(len(runs)) % 2).astype(np.uint8)
        return np.repeat(values, runs).reshape(size, order="F")
    if not segmentation:
        raise UnusableMaskError(ABSENT)
    if not isinstance(segmentation, list):
        raise UnusableMaskError(DAMAGED)
    height, width = size
    polygons = _polygons(segmentation, size)
    return rle.decode(rle.merge(rle.frPyObjects(polygons, height, width)))


def _polygons(parts: Sequence[Any], size: tuple[int, int]) -> list[list[float]]:
    """The parts that have an area; a few points beside them do no harm."""
    height, width = size
    polygons = []
    is_inside = False
    for part in parts:
        points = _numbers(part)
        if len(points) % 2 or (np.abs(points) > _FARTHEST * max(size)).any():
            raise UnusableMaskError(DAMAGED)
        if len(points) < 6:
            continue
        polygons.append(points.tolist())
        x, y = points[::2], points[1::2]
        is_inside |= x.max() > 0 and y.max() > 0 and x.min() < width and y.min() < height
    if not polygons:
        raise UnusableMaskError(DAMAGED if any(parts) else ABSENT)
    if not is_inside:
        raise UnusableMaskError(OUTSIDE)
    return polygons


def _run_lengths(segmentation: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """(n,) int64: lengths of the runs of 0 and 1 in turn, which fill the image."""
    stated = _numbers(segmentation.get("size"))
    if len(stated) != 2:
        raise UnusableMaskError(DAMAGED)
    if tuple(stated) != size:
        raise UnusableMaskError(OTHER_SIZE)
    counts = segmentation.get("counts")
    runs = _numbers(_decompressed(counts) if isinstance(counts, str) else counts)
    pixels = size[0] * size[1]
    is_whole = ((runs >= 0) & (runs <= pixels) & (runs == np.floor(runs))).all()
    if not is_whole or runs.sum() != pixels:
        raise UnusableMaskError(DAMAGED)
    return runs.astype(np.int64)


def _numbers(values: Any) -> np.ndarray:
    """(n,) float64, all finite."""
    if not isinstance(values, list):
        raise UnusableMaskError(DAMAGED)
    if not values:
        return np.empty(0)
    try:
        array = np.array(values)
    except ValueError:  # lists of different lengths in it
        raise UnusableMaskError(DAMAGED) from None
    if array.ndim != 1 or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise UnusableMaskError(DAMAGED)
    return array.astype(np.float64)


def _decompressed(text: str) -> list[int]:
    """COCO's code: six bits a character, differences to the run before the last one."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > _LONGEST_CODE:
            raise UnusableMaskError(DAMAGED)
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:  # the number goes on
            continue
        if bits & 0x10:  # it is negative
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise UnusableMaskError(DAMAGED)
    return runs

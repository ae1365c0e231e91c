# SPDX-License-Identifier: Apache-2.0
"""Masks from COCO's segmentations: polygons, run lengths, compressed run lengths.

They are checked before they are decoded, because pycocotools trusts the file: an infinite
coordinate crashes the process, run lengths that stop short leave the rest of the mask
uninitialised, and a truncated compressed code is read beyond its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from training.data.negatives.quality import ABSENT, DAMAGED, OTHER_SIZE
from training.data.negatives.run_lengths import RunLengths

OUTSIDE = "outside the image"
# Polygons may extend beyond the image by at most this multiple of its longer side.
_FARTHEST = 16
# Maximum number of bits in a run length; enough for any image.
_LONGEST_CODE = 40


class UnusableMaskError(ValueError):
    """A segmentation gives no mask; the message is the violated rule."""


def run_lengths(segmentation: Any, size: tuple[int, int]) -> RunLengths:
    """Checks and draws polygons, run lengths or compressed run lengths.

    Args:
        segmentation: Segmentation from the annotation file.
        size: (height, width) of the image.

    Raises:
        UnusableMaskError: It is missing, malformed, of another size or outside the image.
    """
    if isinstance(segmentation, dict) and segmentation:
        return RunLengths.from_runs(_run_lengths(segmentation, size), size)
    if not segmentation:
        raise UnusableMaskError(ABSENT)
    if not isinstance(segmentation, list):
        raise UnusableMaskError(DAMAGED)
    return from_polygons([_numbers(part).tolist() for part in segmentation], size)


def from_polygons(parts: Sequence[list[float]], size: tuple[int, int]) -> RunLengths:
    """Checks and draws polygons of finite numbers; parts with too few points are skipped.

    Raises:
        UnusableMaskError: They are malformed, or missing, or outside the image.
    """
    height, width = size
    farthest = _FARTHEST * max(size)
    polygons = []
    is_inside = False
    for part in parts:
        if len(part) % 2:
            raise UnusableMaskError(DAMAGED)
        if not part:
            continue
        x, y = part[::2], part[1::2]
        left, top, right, bottom = min(x), min(y), max(x), max(y)
        if min(left, top) < -farthest or max(right, bottom) > farthest:
            raise UnusableMaskError(DAMAGED)
        if len(x) > 2:
            polygons.append(part)
            is_inside |= right > 0 and bottom > 0 and left < width and top < height
    if not polygons:
        raise UnusableMaskError(DAMAGED if any(parts) else ABSENT)
    if not is_inside:
        raise UnusableMaskError(OUTSIDE)
    return RunLengths.from_polygons(polygons, size)


def _run_lengths(segmentation: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """Returns the (n,) int64 lengths of alternating runs of 0 and 1, which fill the image."""
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
    """Converts a list to (n,) float64, all finite."""
    if not isinstance(values, list):
        raise UnusableMaskError(DAMAGED)
    if not values:
        return np.empty(0)
    try:
        array = np.array(values)
    except ValueError:  # ragged nested lists
        raise UnusableMaskError(DAMAGED) from None
    if array.ndim != 1 or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise UnusableMaskError(DAMAGED)
    return array.astype(np.float64)


def _decompressed(text: str) -> list[int]:
    """Decodes COCO's run lengths: six bits per character, delta-coded by every second run."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > _LONGEST_CODE:
            raise UnusableMaskError(DAMAGED)
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:  # the number continues
            continue
        if bits & 0x10:  # the number is negative
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise UnusableMaskError(DAMAGED)
    return runs

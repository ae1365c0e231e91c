# SPDX-License-Identifier: Apache-2.0
"""Looks through a data set's label files before any work is done with them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from anomaly_seg_ros.datasets.base import Sample
from anomaly_seg_ros.errors import ImageError
from anomaly_seg_ros.io.images import read_label
from anomaly_seg_ros.labels import MaskConvention

# Number of passes over the masks, each taking every 8th: frames without anomaly come in runs.
_PASSES = 8


def check_mask_convention(samples: Iterable[Sample], where: str | Path) -> None:
    """Refuses a set of masks that hold only 0 and 255 if the meaning of 255 was not stated.

    Reads masks until one holds a 1, which is the first or second in most sets. Data sets that
    define their masks cost nothing.

    Args:
        samples: All samples of the set, even if only a part is used: any may hold the 1.
        where: The set's folder, for the message.

    Raises:
        DatasetError: The masks hold nothing but 0 and 255, and both.
    """
    paths = [x.anomaly_mask_path for x in samples if x.anomaly_mask_path and x.mask_255 is None]
    convention = MaskConvention()
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        for chunk in _chunks(paths, 2 * threads):
            for mask in pool.map(_readable, chunk):
                convention.add(mask)
            if convention.is_settled:
                return
    convention.check(str(where))


def _chunks(paths: list[Path], size: int) -> Iterator[list[Path]]:
    """Yields all paths; each pass spans the whole list."""
    for start in range(_PASSES):
        part = paths[start::_PASSES]
        for first in range(0, len(part), size):
            yield part[first : first + size]


def _readable(path: Path) -> np.ndarray:
    """Reads a mask as stored; empty if damaged, which is reported when its frame is read."""
    try:
        return read_label(path)
    except ImageError:
        return np.empty((0, 0), np.uint8)


def stored_values(paths: Iterable[Path]) -> list[frozenset[int]]:
    """Returns the values that each label file holds, in the order of the paths.

    OpenCV decodes outside Python's lock, so threads use all cores.

    Raises:
        ImageError: A file is missing or damaged.
    """
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(_values, paths))


def _values(path: Path) -> frozenset[int]:
    # Takes half the time of np.bincount, also outside Python's lock.
    counts = cv2.calcHist([read_label(path)], [0], None, [256], [0, 256])
    return frozenset(np.flatnonzero(counts).tolist())

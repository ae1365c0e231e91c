"""Whether a set's anomaly masks say what their 255 means, found out before the work."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from anomaly_seg_ros.datasets.base import Sample
from anomaly_seg_ros.errors import ImageError
from anomaly_seg_ros.io.images import read_label
from anomaly_seg_ros.labels import MaskConvention

# Frames without an anomaly come in runs, so the masks are looked at in so many passes.
_PASSES = 8


def check_mask_convention(samples: Iterable[Sample], where: str | Path) -> None:
    """Refuses masks of 0 and 255 alone where nobody said what 255 means.

    Reads masks until one holds a 1, which is the first or second in most sets. Data sets that
    define their masks cost nothing.

    Args:
        samples: All of the set, whatever part of it is used: any of them may hold the 1.
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
    """All paths, from the whole length of the list in each pass."""
    for start in range(_PASSES):
        part = paths[start::_PASSES]
        for first in range(0, len(part), size):
            yield part[first : first + size]


def _readable(path: Path) -> np.ndarray:
    """The mask as stored; nothing of a damaged file, which is told when its frame is read."""
    try:
        return read_label(path)
    except ImageError:
        return np.empty((0, 0), np.uint8)

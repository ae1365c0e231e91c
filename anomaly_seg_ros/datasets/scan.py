"""Which values label files hold, for splits that are defined by the content of the labels."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from anomaly_seg_ros.io.images import read_label


def stored_values(paths: Iterable[Path]) -> list[frozenset[int]]:
    """Reads label files and says which values each holds; in the order of the paths.

    OpenCV decodes outside Python's lock, so threads use all cores.

    Raises:
        ImageError: A file is missing or damaged.
    """
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(_values, paths))


def _values(path: Path) -> frozenset[int]:
    # Half the time of np.bincount, and outside Python's lock too.
    counts = cv2.calcHist([read_label(path)], [0], None, [256], [0, 256])
    return frozenset(np.flatnonzero(counts).tolist())

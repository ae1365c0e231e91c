"""What no node can be faster than: the copies that a frame needs at least."""

from __future__ import annotations

import statistics
import time

import numpy as np

_REPEATS = 20


def copy_ms(size: tuple[int, int]) -> float:
    """Median milliseconds to copy a frame in and its three outputs out once, in one thread.

    Args:
        size: (height, width) of the frame.
    """
    pixels = size[0] * size[1]
    # RGB in; labels, float32 score and mask out.
    sources = [np.ones(pixels * width, np.uint8) for width in (3, 1, 4, 1)]
    targets = [np.zeros_like(source) for source in sources]
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        for target, source in zip(targets, sources, strict=True):
            np.copyto(target, source)
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times)

"""Whole numbers that order float32 scores.

The bits of an IEEE 754 number order like the number itself once the sign is turned around, so a
float32 score is also one of 2^32 whole numbers, its key. Counting keys is counting scores,
without bins and without error.
"""

from __future__ import annotations

import numpy as np

_SIGN = np.uint32(0x80000000)


def to_keys(scores: np.ndarray) -> np.ndarray:
    """Maps scores to keys of the same order; 0.0 and -0.0 share one.

    Args:
        scores: 1-D float32. NaN has no order: it gets a key beyond one of the infinities.

    Returns:
        (N,) uint32.
    """
    # Adding zero turns -0.0 into 0.0, and makes the copy that is changed in place below.
    keys = (scores + np.float32(0)).view(np.uint32)
    # All ones for negative scores, whose bits fall as they rise.
    flip = (keys.view(np.int32) >> 31).view(np.uint32)
    flip |= _SIGN
    keys ^= flip
    return keys


def from_keys(keys: np.ndarray) -> np.ndarray:
    """The float32 scores of uint32 keys, of the same shape."""
    keys = np.asarray(keys, np.uint32)
    return np.where(keys & _SIGN, keys ^ _SIGN, ~keys).view(np.float32)


def first_key_at_least(threshold: float) -> int:
    """The lowest key whose score is >= a threshold of any precision."""
    with np.errstate(over="ignore"):
        rounded = np.float32(threshold)
    if float(rounded) < threshold:
        rounded = np.nextafter(rounded, np.float32(np.inf))
    return int(to_keys(np.array([rounded], np.float32))[0])


LOWEST_KEY = int(to_keys(np.array([np.finfo(np.float32).min], np.float32))[0])
HIGHEST_KEY = int(to_keys(np.array([np.finfo(np.float32).max], np.float32))[0])
"""Keys of the finite scores; what is below or above is infinite or NaN."""

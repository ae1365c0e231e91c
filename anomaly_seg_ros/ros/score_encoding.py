# SPDX-License-Identifier: Apache-2.0
"""Encodings of ``~/ood_score``: as it is, or in fewer bytes."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

# Encoding -> (type, its value at a score of 1). A score of 0.5, the calibrated threshold, lies
# halfway between two values and is rounded up to the even one, 32768 or 128. Whatever is less
# rounds down: so values from there on are the pixels from the threshold on.
SCORE_ENCODINGS: Mapping[str, tuple[type, float]] = {
    "32FC1": (np.float32, 1.0),
    "mono16": (np.uint16, 65535.0),
    "mono8": (np.uint8, 255.0),
}
_DEPTHS = {"mono16": cv2.CV_16U, "mono8": cv2.CV_8U}


def encode_score(score: np.ndarray, encoding: str) -> np.ndarray:
    """Scales a score to the range of an encoding.

    Args:
        score: (H, W) float32 in [0, 1]. NaN, which a segmenter refuses, becomes 0 ("known"), as in
            the open-set mask.
        encoding: A key of :data:`SCORE_ENCODINGS`.

    Returns:
        (H, W) of the encoding's type, rounded to the nearest value.
    """
    if encoding not in _DEPTHS:
        return score
    _, full_scale = SCORE_ENCODINGS[encoding]
    # In one pass over the image, unlike NumPy's product, rounding and conversion.
    depth = _DEPTHS[encoding]
    return cv2.multiply(score, full_scale, dtype=depth)  # type: ignore[call-overload]  # a scalar


def decode_score(values: np.ndarray, encoding: str) -> np.ndarray:
    """Gives back a score from its encoded values, off by at most half a step (1/510 in mono8)."""
    _, full_scale = SCORE_ENCODINGS[encoding]
    return values / np.float32(full_scale) if encoding in _DEPTHS else values

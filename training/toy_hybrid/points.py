# SPDX-License-Identifier: Apache-2.0
"""The toy's points: three classes, outliers between them and all around, negatives of one kind."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

CLASSES = 3
_CENTRES = 2.0  # distance of the classes from the middle
_SPREAD = 0.35
_INSIDE = 1.25  # radius of the disc between the classes
_RING = (3.8, 5.2)  # radii of the ring around them


class Points(NamedTuple):
    """Points of one split.

    Attributes:
        inliers: (n, 2) float64.
        classes: (n,) int64, 0 to 2.
        outliers: Kind -> (m, 2) float64.
    """

    inliers: np.ndarray
    classes: np.ndarray
    outliers: dict[str, np.ndarray]


def draw_points(split: str, seed: int, inliers: int, outliers: int) -> Points:
    """Draws a split.

    Args:
        split: ``train``, whose outliers are the negatives and lie between the classes only, or
            ``test``.
        seed: Seed of the experiment; the splits differ.
        inliers: Number of inliers.
        outliers: Number of outliers of each kind.
    """
    rng = np.random.default_rng([seed, split == "test"])
    classes = rng.integers(0, CLASSES, inliers)
    angle = math.pi / 2 + 2 * math.pi * classes / CLASSES
    centres = _CENTRES * np.stack([np.cos(angle), np.sin(angle)], 1)
    found = {"between": _ring(rng, outliers, 0.0, _INSIDE)}
    if split == "test":
        found["around"] = _ring(rng, outliers, *_RING)
    return Points(centres + _SPREAD * rng.standard_normal((inliers, 2)), classes, found)


def _ring(rng: np.random.Generator, count: int, inner: float, outer: float) -> np.ndarray:
    """Draws points uniformly from a ring, or a disc: (count, 2)."""
    angle = rng.uniform(0, 2 * math.pi, count)
    radius = np.sqrt(rng.uniform(inner**2, outer**2, count))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)

# SPDX-License-Identifier: Apache-2.0
"""How much of the answer changes from one frame to the next.

In a slow scene hardly anything should: what changes there is noise. In a fast one the figure also
holds the motion of the picture, and only compares models or settings on the same frames.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from anomaly_seg_ros.errors import ImageError


class FlickerMetrics(NamedTuple):
    """Share of pixels that differ from the frame before, pooled over frames, fractions in [0, 1].

    Attributes:
        mask: Pixels that are unknown in one of the two frames only; NaN without pairs.
        labels: Pixels with another label; NaN without pairs.
        pairs: Pairs of successive frames of the same size.
    """

    mask: float
    labels: float
    pairs: int


class Flicker:
    """Counts changed pixels between successive frames; exact, in constant memory."""

    def __init__(self) -> None:
        self._before: tuple[np.ndarray, np.ndarray] | None = None
        self._changed = np.zeros(2, np.int64)  # mask, labels
        self._pixels = self._pairs = 0

    def update(self, unknown: np.ndarray, labels: np.ndarray) -> None:
        """Adds the next frame; one of another size than the frame before only starts a pair.

        Args:
            unknown: (H, W) bool, pixels at or above the threshold.
            labels: (H, W) uint8 closed-set trainIds.

        Raises:
            ImageError: The shapes differ.
        """
        if unknown.shape != labels.shape:
            raise ImageError(f"mask is {unknown.shape}, labels are {labels.shape}")
        before, self._before = self._before, (unknown, labels)
        if before is None or before[0].shape != unknown.shape:
            return
        for index, (old, new) in enumerate(zip(before, self._before, strict=True)):
            self._changed[index] += np.count_nonzero(old != new)
        self._pixels += unknown.size
        self._pairs += 1

    def compute(self) -> FlickerMetrics:
        """Figures over everything added so far."""
        with np.errstate(invalid="ignore"):
            mask, labels = self._changed / np.float64(self._pixels)
        return FlickerMetrics(float(mask), float(labels), self._pairs)

# SPDX-License-Identifier: Apache-2.0
"""A steadier anomaly score: its mean over time where the picture stands still."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from anomaly_seg_ros.errors import ImageError, ParameterError

# Pictures are compared at this fraction of their size: noise averages out, and it is fast.
_REDUCTION = 4


@dataclass(frozen=True)
class SmoothingRule:
    """How far the past counts.

    Attributes:
        time_constant_s: Seconds after which a frame weighs 1/e as much, positive.
        still: Difference of the brightness to the frame before, in grey levels of 255 and
            averaged over 12 x 12 pixels, up to which a place stands still. From twice this on
            only the newest frame counts; between, the weights go over linearly.
        cut: Share of the picture that moves, [0, 1], above which everything starts over.

    Raises:
        ParameterError: A value is out of range.
    """

    time_constant_s: float
    still: float = 6.0
    cut: float = 0.6

    def __post_init__(self) -> None:
        for name in ("time_constant_s", "still"):
            if not 0 < getattr(self, name) < math.inf:
                raise ParameterError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.cut <= 1:
            raise ParameterError(f"cut must be in [0, 1], not {self.cut}")


class ScoreSmoother:
    """Exponential mean of the scores of one camera's frames, gated by motion.

    With dt since the frame before and g in [0, 1] how much a pixel's surroundings changed,

        w = 1 - exp(-dt / time_constant)
        mean = mean + (w + (1 - w) g) (score - mean)

    The weight w makes the mean independent of the frame rate (Holt's exponential smoothing for
    irregular times: Wright, Management Science 32, 1986). The gate keeps the scores of a thing
    that moves from trailing behind it. A cut of the scene, another size of frame and time that
    goes back start over.

    Args:
        rule: How far the past counts.
    """

    def __init__(self, rule: SmoothingRule) -> None:
        self.rule = rule
        self._mean: np.ndarray | None = None
        self._picture: np.ndarray | None = None
        self._seconds = -math.inf

    def update(self, score: np.ndarray, image: np.ndarray, seconds: float) -> np.ndarray:
        """Adds the next frame.

        Args:
            score: (H, W) float32 on the unit scale.
            image: (H, W, 3) uint8 RGB, the frame.
            seconds: Its stamp.

        Returns:
            (H, W) float32, the mean; must not be changed.

        Raises:
            ImageError: The sizes differ.
        """
        if score.ndim != 2 or image.shape != (*score.shape, 3):
            raise ImageError(f"score is {score.shape}, image is {image.shape}")
        height, width = score.shape
        reduced = (max(width // _REDUCTION, 1), max(height // _REDUCTION, 1))
        small = cv2.resize(image, reduced, interpolation=cv2.INTER_AREA)
        picture = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        before, elapsed = self._picture, seconds - self._seconds
        mean = self._mean
        self._picture, self._seconds = picture, seconds
        if mean is None or before is None or mean.shape != score.shape or elapsed < 0:
            self._mean = score.copy()
            return self._mean
        changed = cv2.blur(cv2.absdiff(picture, before).astype(np.float32), (3, 3))
        gate = (changed / self.rule.still - 1).clip(0, 1)
        if np.count_nonzero(gate) > self.rule.cut * gate.size:
            self._mean = score.copy()
            return self._mean
        least = -math.expm1(-elapsed / self.rule.time_constant_s)
        weight = cv2.resize(least + (1 - least) * gate, (width, height))
        step = score - mean
        step *= weight
        step += mean
        self._mean = step
        return step

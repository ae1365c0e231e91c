# SPDX-License-Identifier: Apache-2.0
"""From raw anomaly scores to the published [0, 1] scale, and thresholds for target rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anomaly_seg_ros.errors import ParameterError

if TYPE_CHECKING:
    from torch import Tensor

# float32 pixels that fit a processor's second-level cache together with as many temporaries.
_BLOCK = 1 << 16


@dataclass(frozen=True)
class RateTable:
    """Share of held-out pixels whose raw score reaches a threshold.

    Attributes:
        thresholds: Raw scores, ascending.
        rates: Share of pixels with score >= threshold, descending, fractions in [0, 1].
    """

    thresholds: tuple[float, ...]
    rates: tuple[float, ...]

    @classmethod
    def from_scores(cls, scores: np.ndarray, rates: Sequence[float]) -> RateTable:
        """Tabulates quantiles of ``scores`` (any shape) at the given rates."""
        ordered = np.sort(np.asarray(rates, np.float64))[::-1]
        thresholds = np.quantile(np.asarray(scores).ravel(), 1.0 - ordered)
        return cls(
            tuple(float(x) for x in np.maximum.accumulate(thresholds)),
            tuple(float(x) for x in ordered),
        )

    def threshold_for(self, rate: float) -> float:
        """The raw threshold at a rate, interpolated linearly between tabulated ones.

        Raises:
            ParameterError: The rate lies outside the table, or there is none.
        """
        if not self.rates:
            raise ParameterError("the model is not calibrated for this score: it has no rates")
        low, high = self.rates[-1], self.rates[0]
        if not low <= rate <= high:
            raise ParameterError(
                f"rate {rate:g} is outside the calibrated range {low:g} to {high:g}"
            )
        return float(np.interp(rate, self.rates[::-1], self.thresholds[::-1]))


@dataclass(frozen=True)
class ScoreCalibration:
    """The calibration of one score of one model.

    Attributes:
        threshold: Raw score at which a pixel is called unknown; 0.5 on the unit scale.
        scale: Raw units; the width of the linear part of the map, positive.
        inlier_rates: False-positive rates on held-out in-distribution pixels.
        outlier_rates: True-positive rates on held-out unknown pixels, or None without any.
    """

    threshold: float
    scale: float
    inlier_rates: RateTable
    outlier_rates: RateTable | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite(self.threshold) and np.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"bad calibration: threshold {self.threshold}, scale {self.scale}")

    def to_unit(self, raw: np.ndarray) -> np.ndarray:
        r"""Maps raw scores to [0, 1] by the algebraic sigmoid.

        :math:`u = \frac12 (1 + \frac{z}{1 + |z|})` with :math:`z = (s - t) / c`. It is strictly
        increasing and its tails fall as :math:`1 / z`: in float32 a logistic function is flat
        from z = 17 on, this one tells neighbours apart far beyond any score a network yields.

        Args:
            raw: float32 of any shape.

        Returns:
            float32 of the same shape; ``threshold`` becomes 0.5.
        """
        raw = np.asarray(raw)
        unit = np.empty(raw.shape, np.float32)
        # In blocks that stay in the processor's cache through all steps.
        flat, out = raw.reshape(-1), unit.reshape(-1)
        for start in range(0, flat.size, _BLOCK):
            z = out[start : start + _BLOCK]
            np.subtract(flat[start : start + _BLOCK], np.float32(self.threshold), out=z)
            z *= np.float32(0.5 / self.scale)
            # z is now half of the formula's z: u = 1/2 + z' / (1 + 2 |z'|).
            denominator = np.abs(z)
            denominator *= 2
            denominator += 1
            z /= denominator
            z += np.float32(0.5)
        return unit

    def to_unit_on_device(self, raw: Tensor) -> Tensor:
        """:meth:`to_unit` of a float32 tensor on its device; the same steps, the same bits."""
        z = (raw - self.threshold) * (0.5 / self.scale)
        return z / (z.abs() * 2 + 1) + 0.5

    def to_unit_scalar(self, raw: float) -> float:
        """:meth:`to_unit` of one number, in float64."""
        z = (raw - self.threshold) / self.scale
        return 0.5 * (1 + z / (1 + abs(z)))

    def threshold_for_tpr(self, rate: float) -> float:
        """Unit threshold that flags this share of the held-out unknown pixels.

        Raises:
            ParameterError: No unknown pixels were calibrated, or the rate is out of range.
        """
        if self.outlier_rates is None:
            raise ParameterError(
                "target_tpr needs a calibration on unknown objects, which the model's metadata "
                "lacks; set threshold instead"
            )
        return self.to_unit_scalar(self.outlier_rates.threshold_for(rate))

"""How far an object is moved towards the exemplar."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anomaly_seg_ros.errors import ParameterError


class Strength:
    """A fixed share, or a range of which each object draws its own.

    Args:
        value: 0 keeps the object, 1 takes the exemplar's statistics; or the smallest and largest.

    Raises:
        ParameterError: Not within 0 to 1, or no range.
    """

    def __init__(self, value: float | Sequence[float]) -> None:
        bounds = tuple(value) if isinstance(value, Sequence) else (value, value)
        if len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1] <= 1:
            raise ParameterError(f"strength: expected 0 to 1 or a range of it, got {value}")
        self.low, self.high = bounds

    def draw(self, rng: np.random.Generator) -> float:
        """One value; a fixed strength draws nothing from the generator."""
        if self.low == self.high:
            return self.low
        return float(rng.uniform(self.low, self.high))

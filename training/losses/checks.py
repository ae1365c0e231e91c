# SPDX-License-Identifier: Apache-2.0
"""Checks of loss options."""

from __future__ import annotations

import math
from collections.abc import Sequence

from anomaly_seg_ros.errors import ParameterError


def choice(name: str, value: str, allowed: Sequence[str]) -> str:
    """Returns ``value`` if it is one of ``allowed``.

    Raises:
        ParameterError: It is not.
    """
    if value not in allowed:
        raise ParameterError(f"option '{name}' is {value!r}, expected {' or '.join(allowed)}")
    return value


def number(
    name: str, value: float, low: float = -math.inf, high: float = math.inf, open_low: bool = False
) -> float:
    """Returns ``value`` as float if it is finite and in [low, high], or (low, high].

    Raises:
        ParameterError: It is not.
    """
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not numeric or not math.isfinite(value) or not low <= value <= high:
        raise ParameterError(f"option '{name}' is {value!r}, expected {_range(low, high)}")
    if open_low and value == low:
        raise ParameterError(f"option '{name}' is {value!r}, expected a number above {low}")
    return float(value)


def _range(low: float, high: float) -> str:
    if math.isinf(low) and math.isinf(high):
        return "a finite number"
    if math.isinf(high):
        return f"a finite number of at least {low}"
    return f"a number from {low} to {high}"

"""Refuses options of the mixing that would fail hours later, or silently mean something else."""

from __future__ import annotations

import math
from typing import Any

from anomaly_seg_ros.errors import ParameterError


def check_share(key: str, value: Any) -> None:
    """Refuses what is no share in [0, 1], such as 90 for 90 percent.

    Args:
        key: Of the configuration, for the message.
        value: Of that key.

    Raises:
        ParameterError: It is none.
    """
    if not (_is_number(value) and 0 <= value <= 1):
        raise ParameterError(f"{key}: expected a share from 0 to 1, got {value!r}")


def check_positive(key: str, value: Any) -> None:
    """Refuses zero, negative and infinite values; arguments as for :func:`check_share`.

    Raises:
        ParameterError: It is one.
    """
    if not (_is_number(value) and value > 0):
        raise ParameterError(f"{key}: expected a number above 0, got {value!r}")


def check_counts(key: str, value: Any) -> None:
    """Refuses what is no pair of fewest and most; arguments as for :func:`check_share`.

    Raises:
        ParameterError: It is none.
    """
    if not (_is_pair(value) and all(isinstance(x, int) for x in value) and value[0] >= 0):
        raise ParameterError(
            f"{key}: expected two whole numbers from 0 on, the fewest and the most, got {value!r}"
        )
    _check_order(key, value)


def check_range(key: str, value: Any, positive: bool = False, most: float | None = None) -> None:
    """Refuses what is no pair of smallest and largest.

    Args:
        key: Of the configuration, for the message.
        value: Of that key.
        positive: Zero is refused as well, because logarithms are taken.
        most: Upper bound of the largest.

    Raises:
        ParameterError: It is none.
    """
    highest = math.inf if most is None else most
    if not (
        _is_pair(value) and all(0 <= x <= highest for x in value) and not (positive and 0 in value)
    ):
        bounds = "above 0" if positive else "from 0 on" if most is None else f"from 0 to {most}"
        raise ParameterError(
            f"{key}: expected two numbers {bounds}, the smallest and the largest, got {value!r}"
        )
    _check_order(key, value)


def _check_order(key: str, pair: Any) -> None:
    if pair[0] > pair[1]:
        raise ParameterError(f"{key}: {pair[0]} is larger than {pair[1]}; the smaller one first")


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)

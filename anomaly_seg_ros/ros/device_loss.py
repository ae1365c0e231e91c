# SPDX-License-Identifier: Apache-2.0
"""Recognising a lost device, and scheduling attempts to recover. No ROS here."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import torch

from anomaly_seg_ros.system.memory import is_out_of_memory

# Newer versions of torch raise this for errors of the CUDA runtime, older ones a RuntimeError.
_AcceleratorError: tuple[type[Exception], ...] = (
    (torch.AcceleratorError,) if hasattr(torch, "AcceleratorError") else ()
)
# Other messages of torch and its libraries after which every later call fails.
_SIGNS = (
    "CUDA error:",
    "CUDA driver error:",
    "CUDNN_STATUS_EXECUTION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR",
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "No CUDA GPUs are available",
    "Found no NVIDIA driver",
)
# These refuse one call and leave the device intact.
_HARMLESS = ("invalid argument", "invalid configuration argument")


def is_lost(error: BaseException) -> bool:
    """Tells whether this error, or one that caused it, means that the device is lost.

    After a device-side assert, an illegal memory access, a launch failure or an ECC error the
    CUDA runtime fails every later call of the process with the same error.
    """
    seen: BaseException | None = error
    while seen is not None:
        if is_out_of_memory(seen):
            return False
        if _says_lost(seen):
            return True
        seen = seen.__cause__
    return False


def free_cache() -> None:
    """Frees the GPU memory that torch caches; does nothing on a lost GPU."""
    if torch.cuda.is_initialized():
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()


def _says_lost(error: BaseException) -> bool:
    if not isinstance(error, RuntimeError) or any(word in str(error) for word in _HARMLESS):
        return False
    return isinstance(error, _AcceleratorError) or any(sign in str(error) for sign in _SIGNS)


FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 60.0


class Recovery:
    """Schedules attempts, each after twice the delay of the one before.

    Args:
        clock: Returns seconds of a steady clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._made = 0
        self._due: float | None = None

    def schedule(self, allowed: int) -> float | None:
        """Plan the next attempt.

        Args:
            allowed: Maximum number of attempts in a row.

        Returns:
            The delay in seconds; None if no more are allowed.
        """
        if self._made >= allowed:
            self._due = None
            return None
        delay = min(FIRST_DELAY_S * 2**self._made, LONGEST_DELAY_S)
        self._due = self._clock() + delay
        return delay

    def is_due(self) -> bool:
        """Tell whether to try now; True once for each :meth:`schedule`."""
        if self._due is None or self._clock() < self._due:
            return False
        self._due = None
        self._made += 1
        return True

    def cancel(self) -> None:
        """Drop the planned attempt."""
        self._due = None

    def succeeded(self) -> None:
        """Start counting again, because frames were answered since the last attempt."""
        self._made = 0

"""Recognising a lost device, and when to try it again. No ROS here."""

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
# What else torch and its libraries say when every later call will fail as well.
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
# These refuse one call and leave the device as it was.
_HARMLESS = ("invalid argument", "invalid configuration argument")


def is_lost(error: BaseException) -> bool:
    """Whether this error, or what it was raised from, means that the device is gone.

    After a device-side assert, an illegal memory access, a launch failure or an ECC error the
    CUDA runtime answers every later call of the process with the same error.
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
    """Gives the memory that torch keeps for later on GPUs back to them; a lost one is let be."""
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
    """Spaces attempts: each waits twice as long as the one before.

    Args:
        clock: Seconds of a steady clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._made = 0
        self._due: float | None = None

    def schedule(self, allowed: int) -> float | None:
        """Plan the next attempt.

        Args:
            allowed: How many may be made in a row.

        Returns:
            Seconds until then; None if no more are allowed.
        """
        if self._made >= allowed:
            self._due = None
            return None
        delay = min(FIRST_DELAY_S * 2**self._made, LONGEST_DELAY_S)
        self._due = self._clock() + delay
        return delay

    def is_due(self) -> bool:
        """Whether to try now; True once for each :meth:`schedule`."""
        if self._due is None or self._clock() < self._due:
            return False
        self._due = None
        self._made += 1
        return True

    def cancel(self) -> None:
        """Plan no attempt."""
        self._due = None

    def succeeded(self) -> None:
        """Frames are answered again: the next loss is the first of a new row."""
        self._made = 0

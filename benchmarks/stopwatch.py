# SPDX-License-Identifier: Apache-2.0
"""Times of single calls, on the CPU and on a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

# First calls on a GPU choose algorithms and fill the memory pool.
_GPU_WARM_UPS = 3


def milliseconds(call: Callable[[], object], device: torch.device | None = None) -> float:
    """Milliseconds that a call takes, until its device is idle."""
    began = time.perf_counter()
    call()
    _wait(device)
    return 1e3 * (time.perf_counter() - began)


def repeated(
    call: Callable[[], object], repeats: int, device: torch.device, budget: float
) -> list[float]:
    """Milliseconds of each of several calls; on a GPU after some to warm up.

    Args:
        call: The work.
        repeats: Most calls.
        device: The device that does the work.
        budget: Seconds after which no further call starts.
    """
    if device.type == "cuda":
        for _ in range(_GPU_WARM_UPS):
            call()
    times: list[float] = []
    while len(times) < repeats and sum(times) < 1e3 * budget:
        _wait(device)
        times.append(milliseconds(call, device))
    return times


def _wait(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)

# SPDX-License-Identifier: Apache-2.0
"""Measures the time of each stage of a frame, on the CPU or, by events, on a GPU."""

from __future__ import annotations

import time

import torch


class Stopwatch:
    """Times laps by name; laps of the same name add up.

    On a GPU a lap ends when the device reaches it, not when the host has queued the work. Nothing
    here waits for the device: call :meth:`milliseconds` after it has been synchronised.

    Args:
        device: Device that runs the stages.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._on_gpu = device.type == "cuda"
        self._marks: list[tuple[str, float | torch.cuda.Event]] = [("", self._now())]

    def lap(self, name: str) -> None:
        """Ends a lap, which began when the previous one ended."""
        self._marks.append((name, self._now()))

    def milliseconds(self) -> dict[str, float]:
        """Total time of the laps of each name, in milliseconds."""
        total: dict[str, float] = {}
        for (_, began), (name, ended) in zip(self._marks, self._marks[1:], strict=False):
            total[name] = total.get(name, 0.0) + _milliseconds(began, ended)
        return total

    def _now(self) -> float | torch.cuda.Event:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        # Without a stream, the event is recorded on the current device, which may be another.
        event.record(torch.cuda.current_stream(self._device))
        return event


def _milliseconds(began: float | torch.cuda.Event, ended: float | torch.cuda.Event) -> float:
    if isinstance(began, float) and isinstance(ended, float):
        return 1e3 * (ended - began)
    return began.elapsed_time(ended)  # type: ignore[union-attr,arg-type]

"""How long each stage of a frame takes, on the CPU or, by events, on a GPU."""

from __future__ import annotations

import time

import torch


class Stopwatch:
    """Laps by name; a name may come several times, its laps add up.

    On a GPU a lap ends when the device gets there, not when the host has queued the work, and
    nothing waits for it: :meth:`milliseconds` must be called after the device has been waited for.

    Args:
        device: Where the stages run.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._on_gpu = device.type == "cuda"
        self._marks: list[tuple[str, float | torch.cuda.Event]] = [("", self._now())]

    def lap(self, name: str) -> None:
        """Ends a lap, which began where the one before ended."""
        self._marks.append((name, self._now()))

    def milliseconds(self) -> dict[str, float]:
        """Name -> time of its laps."""
        total: dict[str, float] = {}
        for (_, began), (name, ended) in zip(self._marks, self._marks[1:], strict=False):
            total[name] = total.get(name, 0.0) + _milliseconds(began, ended)
        return total

    def _now(self) -> float | torch.cuda.Event:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        # Without a stream it would be recorded on the current device, which may be another one.
        event.record(torch.cuda.current_stream(self._device))
        return event


def _milliseconds(began: float | torch.cuda.Event, ended: float | torch.cuda.Event) -> float:
    if isinstance(began, float) and isinstance(ended, float):
        return 1e3 * (ended - began)
    return began.elapsed_time(ended)  # type: ignore[union-attr,arg-type]

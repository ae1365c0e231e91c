# SPDX-License-Identifier: Apache-2.0
"""Counts, times and rates of frames. No ROS here."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

# What becomes of a received frame: exactly one of these.
OUTCOMES = ("processed", "dropped", "throttled", "unwatched", "bad", "failed")


class FrameCounts:
    """Thread-safe counts of what became of one camera's frames.

    ``totals`` counts ``received`` and the outcomes: ``processed``, ``dropped`` (replaced by a
    newer one before its turn, or still waiting when the node stopped), ``throttled`` (over the
    rate limit), ``unwatched`` (no output has a subscriber), ``bad`` (no usable image) and
    ``failed`` (inference raised, or hung and was abandoned). At any moment ``received`` is the
    sum of the outcomes and of the frames waiting and at work, at most one each. Faults are also
    counted by kind.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals: Counter[str] = Counter()
        self._faults: dict[str, tuple[int, str]] = {}

    def add(self, *names: str) -> None:
        """Add one to each of these names, atomically for readers."""
        with self._lock:
            self._totals.update(names)

    def add_fault(self, kind: str, reason: str) -> bool:
        """Count a fault and keep its reason; True if it is the first of its kind."""
        with self._lock:
            count = self._faults.get(kind, (0, ""))[0]
            self._faults[kind] = count + 1, reason
        return count == 0

    def totals(self) -> Counter[str]:
        """Return frames by outcome; names that never occurred count 0."""
        with self._lock:
            return self._totals.copy()

    def faults(self) -> dict[str, tuple[int, str]]:
        """Map each kind of fault to (count, reason of the last one)."""
        with self._lock:
            return dict(self._faults)


NEWEST_FRAMES = 500


class StageSummary(NamedTuple):
    """Times of one stage over the newest frames that had it, in milliseconds."""

    mean: float
    median: float
    p99: float
    maximum: float


class StageTimes:
    """Thread-safe times of named stages over the newest ``frames`` frames.

    Stages may differ between frames: one without a requested score has no ``score``.
    """

    def __init__(self, frames: int = NEWEST_FRAMES) -> None:
        self._lock = threading.Lock()
        self._newest: deque[Mapping[str, float]] = deque(maxlen=frames)

    def add(self, milliseconds: Mapping[str, float]) -> None:
        """Add one frame's stages; the mapping is kept and must not be modified."""
        with self._lock:
            self._newest.append(milliseconds)

    def newest(self) -> Mapping[str, float]:
        """Return the newest frame's stages; empty before the first."""
        with self._lock:
            return self._newest[-1] if self._newest else {}

    def summary(self) -> dict[str, StageSummary]:
        """Summarise each stage, in the order in which stages first appear."""
        with self._lock:
            newest = list(self._newest)
        columns: dict[str, list[float]] = {}
        for frame in newest:
            for name, value in frame.items():
                columns.setdefault(name, []).append(value)
        return {name: _summary(column) for name, column in columns.items()}


def _summary(milliseconds: list[float]) -> StageSummary:
    values = np.array(milliseconds)
    median, p99 = np.percentile(values, (50, 99))
    return StageSummary(float(values.mean()), float(median), float(p99), float(values.max()))


class RateLimiter:
    """Lets through at most ``rate`` events a second, evenly spaced."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due = -float("inf")

    def admits(self, rate: float) -> bool:
        """Tell whether an event may pass now; ``rate`` in Hz, 0 = no limit."""
        if rate <= 0:
            return True
        now, period = self._clock(), 1.0 / rate
        if now < self._due:
            # After an increase of the rate, do not wait for the old, longer period.
            self._due = min(self._due, now + period)
            return False
        # Counted from the due time, so a camera whose frames come a little late still gets the
        # full rate. After a pause nothing is caught up.
        self._due = (self._due if now - self._due < period else now) + period
        return True

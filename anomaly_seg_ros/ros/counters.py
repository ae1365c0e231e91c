"""Counts, times and rates of frames. No ROS here."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

# What becomes of a received frame; each comes to exactly one of these ends.
OUTCOMES = ("processed", "dropped", "throttled", "unwatched", "bad", "failed")


class FrameCounts:
    """Thread-safe counts of what became of one camera's frames.

    ``totals`` has ``received`` and by outcome ``processed``, ``dropped`` (replaced by a newer one
    before their turn, or still waiting when the node stopped), ``throttled`` (over the rate
    limit), ``unwatched`` (nobody subscribes to any output), ``bad`` (no usable image) and
    ``failed`` (inference raised, or hung until it was given up). At any moment ``received`` is
    the sum of the others and of the frames that wait or are at work, at most one each.
    Faults are counted by kind as well.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals: Counter[str] = Counter()
        self._faults: dict[str, tuple[int, str]] = {}

    def add(self, *names: str) -> None:
        """Count one under each of these names, at once: no reader sees a part of it."""
        with self._lock:
            self._totals.update(names)

    def add_fault(self, kind: str, reason: str) -> bool:
        """Count a fault with its reason; True if it is the first of its kind."""
        with self._lock:
            count = self._faults.get(kind, (0, ""))[0]
            self._faults[kind] = count + 1, reason
        return count == 0

    def totals(self) -> Counter[str]:
        """Frames by outcome; names that never occurred count 0."""
        with self._lock:
            return self._totals.copy()

    def faults(self) -> dict[str, tuple[int, str]]:
        """Fault kind -> (how often, the last one's reason)."""
        with self._lock:
            return dict(self._faults)


NEWEST_FRAMES = 500


class StageSummary(NamedTuple):
    """One stage over the newest frames that had it, in milliseconds."""

    mean: float
    median: float
    p99: float
    maximum: float


class StageTimes:
    """Thread-safe times of named stages over the newest ``frames`` frames.

    Frames may have different stages: one that nobody wants a score of has no ``score``.
    """

    def __init__(self, frames: int = NEWEST_FRAMES) -> None:
        self._lock = threading.Lock()
        self._newest: deque[Mapping[str, float]] = deque(maxlen=frames)

    def add(self, milliseconds: Mapping[str, float]) -> None:
        """Add one frame's stages; the mapping is kept and must not change any more."""
        with self._lock:
            self._newest.append(milliseconds)

    def newest(self) -> Mapping[str, float]:
        """The newest frame's stages; empty before the first."""
        with self._lock:
            return self._newest[-1] if self._newest else {}

    def summary(self) -> dict[str, StageSummary]:
        """Stage -> its figures, in the order in which stages first appear."""
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
        """Whether an event may pass now; ``rate`` in Hz, 0 = no limit."""
        if rate <= 0:
            return True
        now, period = self._clock(), 1.0 / rate
        if now < self._due:
            # A rate that was just raised must not wait for the old, longer period.
            self._due = min(self._due, now + period)
            return False
        # Counted from when it was due, not from now: a camera whose frames come a little late
        # still gets the whole rate. After a pause nothing is caught up.
        self._due = (self._due if now - self._due < period else now) + period
        return True

"""Letting through so many frames a second. No ROS here."""

from __future__ import annotations

import time
from collections.abc import Callable


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

"""When to try again after the device was lost. No ROS here."""

from __future__ import annotations

import time
from collections.abc import Callable

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

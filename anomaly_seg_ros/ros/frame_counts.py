"""What became of the frames, in numbers. No ROS here."""

from __future__ import annotations

import threading
from collections import Counter

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

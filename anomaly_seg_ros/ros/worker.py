"""A slot that keeps only the newest frame, and the one thread that works it off. No ROS here."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Generic, TypeVar

from anomaly_seg_ros.errors import ImageError

Frame = TypeVar("Frame")


class FrameCounts:
    """Thread-safe counts of what became of the frames.

    ``totals`` has ``received``, ``processed``, ``dropped`` (replaced by a newer one before
    their turn), ``throttled`` (over the rate limit), ``unwatched`` (nobody subscribes to any
    output), ``bad`` and ``failed`` (inference raised). Faults are counted by kind as well.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals: Counter[str] = Counter()
        self._faults: dict[str, tuple[int, str]] = {}

    def add(self, name: str, amount: int = 1) -> None:
        """Count ``amount`` more frames under ``name``."""
        with self._lock:
            self._totals[name] += amount

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


class Worker(Generic[Frame]):
    """Runs ``process`` on the newest frame in a thread of its own.

    Args:
        process: does the work and returns the outcome to count (``processed``, ``unwatched``).
            An ImageError counts the frame as bad, any other exception as failed; the thread
            goes on with the next frame either way.
        on_fault: called in the worker's thread with each such exception and the ``kind``.
        counts: where frames are counted.
    """

    def __init__(
        self,
        process: Callable[[Frame], str],
        on_fault: Callable[[str, Exception], None],
        counts: FrameCounts,
    ) -> None:
        self._process = process
        self._on_fault = on_fault
        self._counts = counts
        self._ready = threading.Condition()
        self._newest: Frame | None = None
        self._stopping = False
        # A daemon: a network that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)

    def start(self) -> None:
        """Start the thread; once in a worker's life."""
        self._thread.start()

    def put(self, frame: Frame) -> None:
        """Hand over a frame without waiting; an older one still waiting is dropped."""
        with self._ready:
            dropped = self._newest is not None
            self._newest = frame
            self._ready.notify()
        self._counts.add("received")
        if dropped:
            self._counts.add("dropped")

    def stop(self, timeout: float | None = None) -> bool:
        """Finish the frame at work, drop the waiting one, end the thread.

        Returns:
            False if the frame at work took longer than ``timeout`` seconds.
        """
        with self._ready:
            if self._newest is not None:
                self._newest = None
                self._counts.add("dropped")
            self._stopping = True
            self._ready.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._ready:
                self._ready.wait_for(lambda: self._newest is not None or self._stopping)
                if self._stopping:
                    return
                frame, self._newest = self._newest, None
            try:
                outcome = self._process(frame)
            except ImageError as error:
                outcome = "bad"
                self._on_fault(getattr(error, "kind", "bad image"), error)
            # Whatever the network raises (out of memory, a lost device) concerns this frame.
            except Exception as error:  # noqa: BLE001
                outcome = "failed"
                self._on_fault(f"inference: {type(error).__name__}", error)
            self._counts.add(outcome)
            del frame  # the message may be large: do not hold it while waiting for the next

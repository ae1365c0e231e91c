"""How long the stages of a frame took, over the newest frames. No ROS here."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

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

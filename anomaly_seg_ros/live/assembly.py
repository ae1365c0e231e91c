# SPDX-License-Identifier: Apache-2.0
"""Puts together what belongs to one frame, so that it is shown at once."""

from __future__ import annotations

from typing import Any


class FrameAssembly:
    """Collects the outputs of frames until one has all of them.

    Args:
        names: The outputs of a frame.
        waiting: Frames that may be incomplete at a time; of more the oldest is given up.
    """

    def __init__(self, names: tuple[str, ...], waiting: int = 8) -> None:
        self._names = frozenset(names)
        self._waiting = waiting
        self._parts: dict[int, dict[str, Any]] = {}

    def add(self, stamp_ns: int, name: str, part: Any) -> dict[str, Any] | None:
        """Adds an output; returns all of the frame's if this was the last one.

        Older frames that are still incomplete are given up then: something of them was lost.
        """
        parts = self._parts.setdefault(stamp_ns, {})
        parts[name] = part
        if parts.keys() == self._names:
            self._parts = {stamp: p for stamp, p in self._parts.items() if stamp > stamp_ns}
            return parts
        if len(self._parts) > self._waiting:
            del self._parts[min(self._parts)]
        return None

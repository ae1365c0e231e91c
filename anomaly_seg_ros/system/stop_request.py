# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM as a request that a loop answers between two frames."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether the user asked to stop; true from the first signal on."""

    def __init__(self) -> None:
        self._asked = False

    def __call__(self) -> bool:
        """Whether a signal came."""
        return self._asked

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._asked:  # nobody answered the first
            raise KeyboardInterrupt
        self._asked = True


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Listens for SIGINT and SIGTERM inside the block; a second one raises KeyboardInterrupt.

    Signals reach the main thread only; elsewhere nothing is changed.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {
        number: signal.signal(number, request._hear) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""The network without ROS, in a process of its own: what the nodes are compared with."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from anomaly_seg_ros.errors import AnomalySegError
from benchmarks.online.bare_calls import Bare, Call

_TIMEOUT_S = 300.0
_STOP_TIMEOUT_S = 10.0

Loader = Callable[[Bare], tuple[dict[str, Call], dict[str, Any]]]


class BareProcess:
    """Times calls on request, as a context manager.

    Args:
        load: :func:`bare_calls.ours` or :func:`bare_calls.naive`; runs in the process.
        bare: Its argument.

    Attributes:
        contenders: Names of its calls, once :meth:`wait_ready` has returned.
        facts: What was loaded, likewise.
    """

    def __init__(self, load: Loader, bare: Bare) -> None:
        # Spawned: a forked child would share the parent's DDS threads and locks.
        context = multiprocessing.get_context("spawn")
        self._pipe, remote = context.Pipe()
        self._process = context.Process(target=_serve, args=(remote, load, bare), daemon=True)
        self.contenders: tuple[str, ...] = ()
        self.facts: dict[str, Any] = {}

    def __enter__(self) -> BareProcess:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.is_alive():
            self._pipe.send(None)
            self._process.join(_STOP_TIMEOUT_S)
        if self._process.is_alive():
            self._process.kill()

    def wait_ready(self) -> None:
        """Until everything is loaded and has run once.

        Raises:
            AnomalySegError: It could not be loaded.
        """
        self.contenders, self.facts = self._answer()

    def measure(self, contender: str, frames: Sequence[int]) -> list[float]:
        """Milliseconds of each of these frames, by number.

        Raises:
            AnomalySegError: The process failed or ended.
        """
        self._pipe.send((contender, list(frames)))
        return self._answer()

    def _answer(self) -> Any:
        if not self._pipe.poll(_TIMEOUT_S):
            raise AnomalySegError(f"the bare network has not answered within {_TIMEOUT_S:.0f} s")
        try:
            answer = self._pipe.recv()
        except EOFError as error:
            raise AnomalySegError("the process of the bare network has ended") from error
        if isinstance(answer, Exception):
            raise AnomalySegError(f"the bare network: {answer}") from answer
        return answer


def _serve(pipe: Connection, load: Loader, bare: Bare) -> None:
    """The process: loads, says what it loaded, then times until it is told None."""
    try:
        calls, facts = load(bare)
        for call in calls.values():
            call(0)
        pipe.send((tuple(calls), facts))
        while (request := pipe.recv()) is not None:
            contender, numbers = request
            pipe.send([calls[contender](number) for number in numbers])
    except (AnomalySegError, RuntimeError) as error:
        pipe.send(AnomalySegError(f"{type(error).__name__}: {error}"))

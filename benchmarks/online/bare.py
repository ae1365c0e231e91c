# SPDX-License-Identifier: Apache-2.0
"""The networks without ROS, in processes of their own: what the nodes are compared with."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from anomaly_seg_ros.checkpoints.loading import load_model
from anomaly_seg_ros.errors import AnomalySegError
from anomaly_seg_ros.inference.devices import cpu_threads, select_device
from anomaly_seg_ros.inference.prediction import UnknownRule
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.system.malloc_tuning import keep_freed_memory
from benchmarks.online.cases import Case
from benchmarks.stopwatch import milliseconds

_TIMEOUT_S = 300.0
_STOP_TIMEOUT_S = 10.0

# Takes a frame's number, returns milliseconds.
Call = Callable[[int], float]


@dataclass(frozen=True)
class Bare:
    """What a process loads.

    Attributes:
        case: Its backend, precision and network size are taken.
        model: Name or file of the case's model.
        device, num_threads: The node's parameters of these names.
        frames: (H, W, 3) uint8 RGB.
    """

    case: Case
    model: str
    device: str
    num_threads: int
    frames: list[np.ndarray]


def ours(bare: Bare) -> tuple[dict[str, Call], dict[str, Any]]:
    """The networks of our node and of the eager node, and the Segmenter of our node.

    Returns:
        Contender -> call; and what was loaded: ``backend``, ``precision``, ``device``,
        ``network_size``, ``score``.
    """
    keep_freed_memory()  # this and the threads as the node sets them
    torch.set_num_threads(cpu_threads(bare.num_threads))
    size, case = bare.case.network_size, bare.case
    segmenter = Segmenter.load(
        bare.model,
        device=bare.device,
        precision=case.precision,
        inference_size=size,
        backend=case.backend,
        num_threads=bare.num_threads,
    )
    eager = Segmenter.load(
        bare.model, device=bare.device, precision="fp32", inference_size=size, backend="torch"
    )
    score = segmenter.metadata.default_score
    rule = UnknownRule(score, 0.5, mask=True, open_set_labels=False)

    def predict(number: int) -> float:
        frame = bare.frames[number % len(bare.frames)]
        return segmenter.predict(frame, (), confidence=False, unknown=rule).inference_ms

    calls = {
        "network": _network(segmenter, bare.frames),
        "segmenter": predict,
        "eager_network": _network(eager, bare.frames),
    }
    facts = {
        "backend": segmenter.backend,
        "precision": segmenter.precision,
        "device": str(segmenter.device),
        "network_size": list(segmenter.framing.fit(bare.frames[0]).shape[:2]),
        "score": score,
    }
    return calls, facts


def naive(bare: Bare) -> tuple[dict[str, Call], dict[str, Any]]:
    """The network as the naive node runs it, in a process without our settings."""
    network, metadata = load_model(bare.model)
    device = select_device(bare.device)
    network = network.eval().to(device)
    noise = torch.randn(1, 3, *(bare.case.network_size or metadata.inference_size), device=device)

    def run(_: int) -> float:
        with torch.no_grad():
            return milliseconds(lambda: network(noise), device)

    return {"plain_network": run}, {}


def _network(segmenter: Segmenter, frames: list[np.ndarray]) -> Call:
    """The backend's network, from a frame of its size in the host's memory to logits."""
    fitted = [segmenter.framing.fit(frame)[None] for frame in frames]

    def run(number: int) -> float:
        frame = fitted[number % len(fitted)]
        return milliseconds(lambda: segmenter.run_network(frame), segmenter.device)

    return run


Loader = Callable[[Bare], tuple[dict[str, Call], dict[str, Any]]]


class BareProcess:
    """A process that times calls on request; a context manager.

    Args:
        load: :func:`ours` or :func:`naive`; runs in the process.
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
        """Waits until everything is loaded and has run once.

        Raises:
            AnomalySegError: It could not be loaded.
        """
        self.contenders, self.facts = self._answer()

    def measure(self, contender: str, frames: Sequence[int]) -> list[float]:
        """Milliseconds of each of these frames, which are given by number.

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
    """Runs in the process: loads, reports what it loaded, then times until it receives None."""
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

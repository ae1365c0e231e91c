"""What the bare processes time: networks without score, labels, decoding or ROS."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from anomaly_seg_ros.checkpoints.loading import load_model
from anomaly_seg_ros.inference.prediction import UnknownRule
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.system.devices import cpu_threads, select_device
from anomaly_seg_ros.system.malloc_tuning import keep_freed_memory
from benchmarks.online.cases import Case

# Takes a frame's number, returns milliseconds.
Call = Callable[[int], float]


@dataclass(frozen=True)
class Bare:
    """What to load.

    Attributes:
        case: Whose backend, precision and network size to take.
        model: Name or file of its model.
        device: As the node's parameter.
        num_threads: As the node's parameter.
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
    # As the node does.
    keep_freed_memory()
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
        began = time.perf_counter()
        with torch.no_grad():
            network(noise)
        _wait(device)
        return 1e3 * (time.perf_counter() - began)

    return {"plain_network": run}, {}


def _network(segmenter: Segmenter, frames: list[np.ndarray]) -> Call:
    """The backend's network, from a frame of its size in the host's memory to logits."""
    fitted = [segmenter.framing.fit(frame)[None] for frame in frames]

    def run(number: int) -> float:
        began = time.perf_counter()
        segmenter.run_network(fitted[number % len(fitted)])
        _wait(segmenter.device)
        return 1e3 * (time.perf_counter() - began)

    return run


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

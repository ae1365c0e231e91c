# SPDX-License-Identifier: Apache-2.0
"""Runs one case: everything side by side, in quick alternation."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from anomaly_seg_ros.errors import AnomalySegError
from anomaly_seg_ros.ros.node_process import NodeProcess
from anomaly_seg_ros.system.memory import resident_peak_mib
from benchmarks.online import bare as bare_network
from benchmarks.online import timings
from benchmarks.online.bare import Bare, BareProcess
from benchmarks.online.cases import Case
from benchmarks.online.client import Client, PreparedFrame, cpu_seconds

# A turn's first frame is not counted: the caches are still full of another contender's data.
FRAMES_A_TURN = 4
MIN_TURNS = 2
_START_TIMEOUT_S = 300.0
_FRAME_TIMEOUT_S = 60.0
# Frames a second sent under load, as a multiple of what the latency allows one after another.
_OVERLOAD = 1.5
_MAX_RATE_HZ = 200.0
_SUMS = ("inference", "processing", "pipeline")


@dataclass(frozen=True)
class Options:
    """How long and on what; sizes and models are the cases'.

    Attributes:
        frames: Most counted frames of each contender.
        seconds: How long the contenders of a case take turns; a started turn is finished.
        load_seconds: How long each node receives more frames than it can take; 0 = not at all.
        device, num_threads: The node's parameters of these names.
    """

    frames: int = 30
    seconds: float = 30.0
    load_seconds: float = 4.0
    device: str = "auto"
    num_threads: int = 0


class Contestant:
    """A node under test with its client.

    Args:
        kind: Key of :data:`timings.NODES`.
        module, node: The module to run and the node's name.
        parameters: The node's parameters.
        folder: Folder for its log.
    """

    def __init__(
        self, kind: str, module: str, node: str, parameters: dict[str, Any], folder: Path
    ) -> None:
        self.kind = kind
        namespace = f"/benchmark_{os.getpid()}/{kind}"
        self.process = NodeProcess(namespace, parameters, folder / f"{kind}.log", module, node)
        self.client = Client(self.process.name, f"{namespace}/image")

    def __enter__(self) -> Contestant:
        self.process.start()
        return self

    def check(self) -> None:
        """Raises AnomalySegError if the node has ended or could not be configured."""
        self.process.check_alive()
        if reason := self.process.failure():
            raise AnomalySegError(f"{self.process.name}: {reason}")

    def __exit__(self, *_: object) -> None:
        self.process.stop()
        self.client.close()


def contestants(case: Case, model: str, options: Options, folder: Path) -> list[Contestant]:
    """The nodes of a case."""
    height, width = case.network_size or (0, 0)
    common: dict[str, Any] = {
        "model": model,
        "device": options.device,
        "inference_height": height,
        "inference_width": width,
    }
    # Reliable, as the naive node is: a frame lost on its way would be counted as dropped.
    ours = common | {
        "qos_reliability": "reliable",
        "diagnostics_period": 0.5,
        "num_threads": options.num_threads,
    }
    detector = "anomaly_seg_ros.ros.detector"
    chosen = {"backend": case.backend, "precision": case.precision}
    eager = {"backend": "torch", "precision": "fp32"}
    return [
        Contestant("node", detector, "detector", ours | chosen, folder),
        Contestant("eager_node", detector, "detector", ours | eager, folder),
        Contestant("naive_node", "benchmarks.online.naive_node", "naive", common, folder),
        Contestant("echo_node", "benchmarks.online.echo_node", "echo", {}, folder),
    ]


def run_case(
    case: Case, model: str, frames: list[np.ndarray], options: Options, folder: Path
) -> dict[str, Any]:
    """Measures one case.

    Args:
        case: The case.
        model: Name or file of its model.
        frames: (H, W, 3) uint8 RGB of the case's frame size.
        options: Durations and device.
        folder: Folder for logs.

    Returns:
        The case's entry of the report.
    """
    prepared = [PreparedFrame(frame) for frame in frames]
    with ExitStack() as stack:
        nodes = contestants(case, model, options, folder)
        for node in nodes:
            stack.enter_context(node)
        what = Bare(case, model, options.device, options.num_threads, frames)
        bare = stack.enter_context(BareProcess(bare_network.ours, what))
        plain = stack.enter_context(BareProcess(bare_network.naive, what))
        bare.wait_ready()
        plain.wait_ready()
        for node in nodes:
            node.client.wait_connected(_START_TIMEOUT_S, node.check)
        detectors = [node for node in nodes if node.process.name.endswith("/detector")]
        for node in detectors:
            node.client.listen_to_its_account()
        times = _alternate(case, (bare, plain), nodes, prepared, options)
        entry: dict[str, Any] = {
            "key": case.key,
            "model": case.model,
            "frame_size": list(case.frame_size),
            **bare.facts,
            "contenders": {
                name: {
                    "ms": timings.summary(values),
                    "samples_ms": [round(value, 3) for value in values],
                }
                for name, values in times.items()
            },
        }
        for node in detectors:
            _add_stages(entry["contenders"][node.kind], node.client)
        for node in nodes:
            results = entry["contenders"][node.kind]
            results["sender_ms"] = timings.summary(node.client.publish_ms)
            if options.load_seconds > 0:
                results["load"] = _under_load(node, prepared, results["ms"]["median"], options)
            results["peak_rss_mib"] = resident_peak_mib(node.process.pid)
    entry["ratios"] = {name: timings.ratios(entry, name) for name in ("median", "p10")}
    return entry


def _alternate(
    case: Case,
    processes: Sequence[BareProcess],
    nodes: list[Contestant],
    frames: list[PreparedFrame],
    options: Options,
) -> dict[str, list[float]]:
    """Milliseconds of each contender, a few frames of each in turn."""
    times: dict[str, list[float]] = {name: [] for name in timings.CONTENDERS}
    for node in nodes:  # the first frame of a size pays for allocations
        node.client.warm_up(frames[0], _START_TIMEOUT_S)
    deadline = time.monotonic() + options.seconds
    turns = -(-options.frames // (FRAMES_A_TURN - 1))
    for turn in tqdm(range(turns), case.key, unit="turn", leave=False):
        if turn >= MIN_TURNS and time.monotonic() > deadline:
            break
        numbers = range(turn * FRAMES_A_TURN, (turn + 1) * FRAMES_A_TURN)
        for process in processes:
            for contender in process.contenders:
                times[contender] += process.measure(contender, numbers)[1:]
        for node in nodes:
            asked = [node.client.ask(frames[i % len(frames)], _FRAME_TIMEOUT_S) for i in numbers]
            times[node.kind] += asked[1:]
            del node.client.processing_ms[-len(asked) : 1 - len(asked)]  # the first one's
    return times


def _add_stages(results: dict[str, Any], client: Client) -> None:
    """The node's own account of its time, and what it says that it runs."""
    diagnostics = client.diagnostics()
    latency, model = diagnostics["latency"], diagnostics["model"]
    every = {
        key.removesuffix("_median_ms"): {
            "median": float(value),
            "p99": float(latency[key.replace("_median_ms", "_p99_ms")]),
        }
        for key, value in latency.items()
        if key.endswith("_median_ms")
    }
    transport = timings.transport_ms(
        results["samples_ms"], client.processing_ms, every["take"]["median"]
    )
    results["sums"] = {name: every.pop(name) for name in _SUMS if name in every}
    results["stages"] = every | {"transport": timings.summary(transport)}
    results["runs"] = {
        key: model[key] for key in ("backend", "precision", "device") if key in model
    }


def _under_load(
    node: Contestant, frames: list[PreparedFrame], latency_ms: float, options: Options
) -> dict[str, float]:
    """Throughput, drops, latency and CPU use while more frames come than the node can take."""
    rate = min(_OVERLOAD * 1e3 / latency_ms, _MAX_RATE_HZ)
    pid, own = node.process.pid, os.getpid()
    before, own_before = cpu_seconds(pid), cpu_seconds(own)
    load = node.client.load(frames, rate, options.load_seconds)
    used, own_used = cpu_seconds(pid) - before, cpu_seconds(own) - own_before
    node.client.settle(load)
    result = {
        "sent_per_s": load.sent / load.seconds,
        "answered_per_s": load.in_time / load.seconds,
        "sent": load.sent,
        "dropped": load.sent - load.answered,
        "cpu_percent": 100 * used / load.seconds,
        "sender_cpu_percent": 100 * own_used / load.seconds,
    }
    if load.latencies_ms:
        result["latency_ms"] = timings.summary(load.latencies_ms)["median"]
    return result

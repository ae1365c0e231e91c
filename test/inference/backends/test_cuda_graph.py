# SPDX-License-Identifier: Apache-2.0
"""What the host does for CUDA graphs, on a stand-in for torch.cuda that only takes notes.

That the real ones give the same bits is tested in test_cuda.py, on a machine with a GPU.
"""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
from tiny_backends import CPU, select
from torch import Tensor

from anomaly_seg_ros.inference.backends.cuda_graph import GraphedNetwork
from anomaly_seg_ros.inference.options import TORCH


class FakeStream:
    """A stream by name, on the CPU."""

    device = CPU

    def __init__(self, name: object) -> None:
        self.name = name

    def wait_stream(self, other: FakeStream) -> None:
        cuda.log.append(f"{self.name} waits for {other.name}")


class FakeGraph:
    """Remembers what ran while it was captured, and runs it again into the same outputs."""

    def __init__(self) -> None:
        cuda.graphs.append(weakref.ref(self))

    def replay(self) -> None:
        cuda.log.append("replay")
        self.again()


class FakeCuda:
    """The part of torch.cuda that graphs use."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.graphs: list[weakref.ref[FakeGraph]] = []
        self.pools: list[object] = []
        self.handles = 0
        self.main = FakeStream("main")
        self.current = self.main
        self.capturing: FakeGraph | None = None
        self.refusal: Exception | None = None

    def stream_of(self, device: torch.device) -> FakeStream:
        return self.current

    @contextlib.contextmanager
    def on_stream(self, stream: FakeStream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextlib.contextmanager
    def capture(
        self, graph: FakeGraph, pool: object, stream: FakeStream, capture_error_mode: str
    ) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        self.pools.append(pool)
        self.current, self.capturing = stream, graph  # as torch's: not left where it fails
        self.log.append("capture")
        yield
        if self.refusal is not None:
            raise self.refusal
        self.current, self.capturing = self.main, None

    def new_handle(self) -> int:
        self.handles += 1
        return self.handles


class Network:
    """Doubles its input; records where it ran, and into a capture what a replay does."""

    def __call__(self, frames: Tensor) -> tuple[Tensor, ...]:
        assert torch.is_inference_mode_enabled()
        cuda.log.append(f"run on {cuda.current.name}")
        output = frames.float() * 2
        if cuda.capturing is not None:
            cuda.capturing.again = lambda: output.copy_(frames.float() * 2)
        return (output,)


cuda = FakeCuda()


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    cuda.__init__()
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: FakeStream("side"))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "current_stream", cuda.stream_of)
    monkeypatch.setattr(torch.cuda, "stream", cuda.on_stream)
    monkeypatch.setattr(torch.cuda, "graph", cuda.capture)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", cuda.new_handle)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: cuda.log.append("synchronize"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: cuda.log.append("empty_cache"))
    with torch.inference_mode():
        yield


def frames(value: int, *shape: int) -> Tensor:
    return torch.full((1, *(shape or (2, 2)), 3), value, dtype=torch.uint8)


def graphed() -> tuple[GraphedNetwork, list[str]]:
    notes: list[str] = []
    return GraphedNetwork(Network(), CPU, notes.append), notes


def run(network: GraphedNetwork, value: int, *shape: int) -> Tensor:
    return network(network.upload(frames(value, *shape)))[0]


def test_warm_up_capture_replay() -> None:
    network, notes = graphed()
    assert run(network, 7).unique().tolist() == [14]
    assert cuda.log == [
        "synchronize",
        "side waits for main",
        "run on side",
        "run on side",
        "main waits for side",
        "capture",
        "run on side",
        "replay",
    ]
    cuda.log.clear()
    assert run(network, 9).unique().tolist() == [18]
    assert cuda.log == ["replay"]
    assert notes == []
    assert cuda.current is cuda.main


def test_inputs_and_outputs_keep_their_addresses() -> None:
    network, _ = graphed()
    first, second = network.upload(frames(1)), network.upload(frames(2))
    assert first.data_ptr() == second.data_ptr()
    a, b = run(network, 3), run(network, 4)
    assert a.data_ptr() == b.data_ptr()
    assert a.unique().tolist() == [8]  # good until the next call, and that has been


def test_sizes_take_turns_in_one_pool() -> None:
    network, _ = graphed()
    for value in (1, 2, 3):
        assert run(network, value, 2, 2).unique().tolist() == [2 * value]
        assert run(network, value + 10, 4, 2).unique().tolist() == [2 * value + 20]
    assert cuda.pools == [1, 1]
    assert cuda.log.count("capture") == 2
    assert cuda.log.count("replay") == 6


def test_few_graphs_are_kept() -> None:
    network, _ = graphed()
    for height in range(1, 30):
        run(network, 1, height, 2)
    gc.collect()
    assert sum(graph() is not None for graph in cuda.graphs) == 16


def test_each_number_of_cameras_has_its_graph() -> None:
    network, _ = graphed()
    for count in [*range(1, 9), *range(1, 9)]:
        network(network.upload(frames(1).expand(count, -1, -1, -1)))
    assert cuda.log.count("capture") == 8


def test_a_dropped_network_is_freed_at_once() -> None:
    """Not by the next collection: until then its memory would be missing on the GPU."""
    inner = Network()
    gone = weakref.ref(inner)
    network = GraphedNetwork(inner, CPU, lambda note: None)
    del inner
    run(network, 1)
    cuda.capturing = None
    gc.disable()
    try:
        del network
        assert gone() is None
        assert all(graph() is None for graph in cuda.graphs)
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "refusal",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB."),
        RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore"),
    ],
)
def test_a_refused_capture_is_announced_once(refusal: Exception) -> None:
    network, notes = graphed()
    run(network, 1, 2, 2)
    cuda.refusal = refusal
    assert run(network, 5, 4, 6).unique().tolist() == [10]
    assert cuda.current is cuda.main
    assert notes == [
        f"cuda_graphs: no graph at 4 x 6 ({str(refusal).splitlines()[0]}); the network runs "
        "operator by operator"
    ]
    assert cuda.log[-2:] == ["empty_cache", "run on main"]
    # Only this test still holds the error and the graph.
    refusal.__traceback__ = cuda.refusal = cuda.capturing = None
    gc.collect()
    assert all(graph() is None for graph in cuda.graphs)
    cuda.log.clear()
    assert run(network, 6, 2, 2).unique().tolist() == [12]
    assert cuda.log == ["run on main"]
    assert len(notes) == 1


def test_forgetting_frees_the_graphs_and_their_pool() -> None:
    network, _ = graphed()
    run(network, 1)
    cuda.log.clear()
    network.forget()
    assert cuda.log == ["synchronize"]
    gc.collect()
    assert all(graph() is None for graph in cuda.graphs)
    assert run(network, 2).unique().tolist() == [4]
    assert cuda.pools == [1, 2]


def test_faults_of_the_program_are_not_hidden() -> None:
    network, _ = graphed()
    cuda.refusal = KeyError("a bug")
    with pytest.raises(KeyError):
        run(network, 1)


def test_on_the_cpu_there_is_a_note() -> None:
    backend = select(TORCH, cuda_graphs=True).backend
    assert backend.notes == ["cuda_graphs: has no effect on the CPU"]

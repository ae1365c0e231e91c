# SPDX-License-Identifier: Apache-2.0
"""A network on a GPU replayed as one graph: one launch a frame instead of hundreds.

Light networks take longer to launch their kernels than to run them. This follows torch's
documentation of CUDA graphs: warm up on a side stream, then capture on that stream; inputs and
outputs keep their addresses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from anomaly_seg_ros.errors import first_line
from anomaly_seg_ros.inference.backends.compiled import CompiledSizes

Network = Callable[[Tensor], tuple[Tensor, ...]]

# The first calls of cuDNN and cuBLAS choose algorithms and allocate workspaces, which a capture
# forbids; the first call of torch.compile compiles.
_WARM_UP_RUNS = 2
# Each number of cameras in a batch is a size of its own. A graph holds its input and outputs only;
# intermediate values lie in the pool that all graphs share.
_KEPT = 16


class _Graph:
    """One captured size.

    Args:
        network: On the device.
        shape: Shape of its input.
        stream: A side stream of the device, for warm-up and capture.
        pool: Memory that all graphs share.

    Attributes:
        frames: The input that a replay reads.
        outputs: What a replay writes.
    """

    def __init__(
        self,
        network: Network,
        shape: tuple[int, ...],
        stream: torch.cuda.Stream,
        pool: Any,
    ) -> None:
        self.frames = torch.zeros(shape, dtype=torch.uint8, device=stream.device)
        current = torch.cuda.current_stream(stream.device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_RUNS):
                network(self.frames)
        current.wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # The outer context restores the stream: when a capture fails, torch's own context does not
        # leave the side stream. "thread_local", because other threads may use the GPU meanwhile.
        with (
            torch.cuda.stream(current),
            torch.cuda.graph(
                self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"
            ),
        ):
            self.outputs = network(self.frames)

    def replay(self) -> tuple[Tensor, ...]:
        self._graph.replay()
        return self.outputs


class GraphedNetwork:
    """Runs a network as one graph per input size, on the device's current stream.

    All graphs share one memory pool. That is safe because no replay reads what another wrote:
    outputs are valid until the next call, of whatever size.

    Every call must run in inference mode, in which the buffers are made.

    Args:
        network: On the device, in eval mode.
        device: A CUDA device.
        announce: Called once, with a sentence, if a capture fails; from then on the network runs
            operator by operator.
    """

    def __init__(
        self, network: Network, device: torch.device, announce: Callable[[str], None]
    ) -> None:
        self._network = network
        self._device = device
        self._announce = announce
        self._refused = False
        self._stream = torch.cuda.Stream(device)
        self._begin()

    def upload(self, frames: Tensor) -> Tensor:
        """Copies frames from (pinned) host memory to where :meth:`__call__` reads them."""
        graph = None if self._refused else self._graph_for(tuple(frames.shape))
        if graph is None:
            return frames.to(self._device, non_blocking=True)
        return graph.frames.copy_(frames, non_blocking=True)

    def __call__(self, uploaded: Tensor) -> tuple[Tensor, ...]:
        """Runs the network on uploaded frames; outputs are valid until the next call."""
        shape = tuple(uploaded.shape)
        if shape in self._graphs and self._graphs[shape].frames is uploaded:
            return self._graphs[shape].replay()
        return self._network(uploaded)

    def forget(self) -> None:
        """Drops all graphs and, with their pool, the memory of their intermediate values."""
        torch.cuda.synchronize(self._device)  # a graph may still be running
        self._begin()

    def _graph_for(self, shape: tuple[int, ...]) -> _Graph | None:
        if shape in self._graphs:
            return self._graphs[shape]
        torch.cuda.synchronize(self._device)  # the evicted graph may still be running
        try:
            with torch.cuda.device(self._device):
                return self._graphs[shape]
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            reason = first_line(error)
        # After the except block: inside it the traceback still holds the tensors of the pass.
        self._refused = True
        self.forget()
        torch.cuda.empty_cache()
        self._announce(
            f"cuda_graphs: no graph at {shape[1]} x {shape[2]} ({reason}); the network runs "
            "operator by operator"
        )
        return None

    def _begin(self) -> None:
        # Without self in the closure: a reference cycle would hold the memory until the next
        # garbage collection.
        network, stream, pool = self._network, self._stream, torch.cuda.graph_pool_handle()
        self._graphs: CompiledSizes[_Graph] = CompiledSizes(
            lambda shape: _Graph(network, shape, stream, pool), _KEPT
        )

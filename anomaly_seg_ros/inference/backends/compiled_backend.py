"""What the CPU's runtimes have in common: a program for each size, a frame at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.inference.backends.compiled_sizes import CompiledSizes
from anomaly_seg_ros.inference.backends.contract import ScaledNetwork, as_batch, as_output
from anomaly_seg_ros.inference.backends.failures import while_converting, while_running
from anomaly_seg_ros.system.stopwatch import Stopwatch

# (1, H, W, 3) uint8 -> what ScaledNetwork returns, in memory that the next call may use again.
Program = Callable[[np.ndarray], Sequence[np.ndarray]]


class CompiledBackend(ABC):
    """Runs the network with a runtime that converts it anew for each size of frame.

    Args:
        network: BatchNorm folded already, float32, on the CPU; left as it is.
        metadata: Of the network.

    Attributes:
        conversion_errors: What the runtime raises while it takes a network.
        runtime_errors: What it raises while it runs one.
    """

    name: str
    precision: str
    notes = ()
    conversion_errors: tuple[type[Exception], ...]
    runtime_errors: tuple[type[Exception], ...]

    def __init__(self, network: nn.Module, metadata: ModelMetadata) -> None:
        self._network = ScaledNetwork(network, metadata)
        self._programs: CompiledSizes[Program] = CompiledSizes(self._make)

    def __call__(self, frames: np.ndarray, watch: Stopwatch) -> NetworkOutput:
        """See :class:`~anomaly_seg_ros.inference.backends.contract.Backend`."""
        # One at a time: on a CPU a batch takes as long as its frames, and each size of batch would
        # be a conversion of its own.
        results = []
        for frame in frames:
            pixels = np.ascontiguousarray(frame)[None]
            program = self._programs[pixels.shape]
            watch.lap("upload")
            with while_running(self.name, frames.shape, self.runtime_errors):
                tensors = [torch.from_numpy(array) for array in program(pixels)]
            if len(frames) > 1:
                tensors = [tensor.clone() for tensor in tensors]
            results.append(as_output(tensors))
            watch.lap("network")
        return as_batch(results)

    def forget(self) -> None:
        """See :class:`~anomaly_seg_ros.inference.backends.contract.Backend`."""
        self._programs.clear()

    def _make(self, shape: tuple[int, ...]) -> Program:
        with while_converting(self.name, shape, self.conversion_errors), torch.no_grad():
            return self._convert(torch.zeros(shape, dtype=torch.uint8))

    @abstractmethod
    def _convert(self, example: torch.Tensor) -> Program:
        """The program for frames like this one; raises what ``conversion_errors`` names."""

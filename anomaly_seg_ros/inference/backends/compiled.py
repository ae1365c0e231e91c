# SPDX-License-Identifier: Apache-2.0
"""What backends that compile have in common: one program per input size, and their errors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import nn

from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.errors import AnomalySegError, DeviceError, DeviceMemoryError, ExportError
from anomaly_seg_ros.inference.backends.contract import ScaledNetwork, as_batch, as_output
from anomaly_seg_ros.system.memory import is_out_of_memory
from anomaly_seg_ros.system.missing_packages import missing_package
from anomaly_seg_ros.system.stopwatch import Stopwatch

# (1, H, W, 3) uint8 -> the outputs of ScaledNetwork, in memory that the next call may reuse.
Program = Callable[[np.ndarray], Sequence[np.ndarray]]
Shape = tuple[int, ...]
Compiled = TypeVar("Compiled")

# A camera has one size; tiles at a frame's edges and small frames add a few more.
_KEPT = 4


class CompiledSizes(Generic[Compiled]):
    """Makes a program when a size first comes, and keeps those used last.

    Args:
        make: Maps an input shape to its program.
        kept: Number of programs to keep.
    """

    def __init__(self, make: Callable[[Shape], Compiled], kept: int = _KEPT) -> None:
        self._make = make
        self._kept = kept
        self._programs: OrderedDict[Shape, Compiled] = OrderedDict()

    def clear(self) -> None:
        """Drops all programs."""
        self._programs.clear()

    def __contains__(self, shape: Shape) -> bool:
        return shape in self._programs

    def __getitem__(self, shape: Shape) -> Compiled:
        if shape not in self._programs:
            while len(self._programs) >= self._kept:  # first: both may not fit into the memory
                self._programs.popitem(last=False)
            self._programs[shape] = self._make(shape)
        self._programs.move_to_end(shape)
        return self._programs[shape]


class CompiledBackend(ABC):
    """Runs the network on the CPU with a runtime that converts it for each frame size.

    Args:
        network: BatchNorm folded already, float32, on the CPU; not modified.
        metadata: The network's metadata.

    Attributes:
        conversion_errors: What the runtime raises while it converts a network.
        runtime_errors: What it raises while it runs one.
    """

    name: str
    precision: str
    notes: Sequence[str] = ()
    conversion_errors: tuple[type[Exception], ...]
    runtime_errors: tuple[type[Exception], ...]

    def __init__(self, network: nn.Module, metadata: ModelMetadata) -> None:
        self._network = ScaledNetwork(network, metadata)
        self._programs: CompiledSizes[Program] = CompiledSizes(self._make)

    def __call__(self, frames: np.ndarray, watch: Stopwatch) -> NetworkOutput:
        """See :class:`~anomaly_seg_ros.inference.backends.contract.Backend`."""
        # Frame by frame: on a CPU a batch saves no time, and each size of batch would be a
        # conversion of its own.
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

    def _make(self, shape: Shape) -> Program:
        with while_converting(self.name, shape, self.conversion_errors), torch.no_grad():
            return self._convert(torch.zeros(shape, dtype=torch.uint8))

    @abstractmethod
    def _convert(self, example: torch.Tensor) -> Program:
        """Makes the program for frames like ``example``; raises ``conversion_errors``."""


def while_converting(
    backend: str, shape: Shape, errors: tuple[type[Exception], ...]
) -> AbstractContextManager[None]:
    """Turns a compiler's errors into ours.

    Args:
        backend: Name of the backend.
        shape: (N, H, W, 3) of the frames to compile for.
        errors: What the compiler raises; failed imports and a lack of memory are added.

    Raises:
        DeviceMemoryError: Out of memory.
        ExportError: Any other reason.
    """
    return _as(ExportError, f"backend '{backend}': the network cannot be converted", shape, errors)


def while_running(
    backend: str, shape: Shape, errors: tuple[type[Exception], ...]
) -> AbstractContextManager[None]:
    """Turns a runtime's errors into ours.

    Args:
        backend: Name of the backend.
        shape: (N, H, W, 3) of the frames.
        errors: What the runtime raises; failed imports and a lack of memory are added.

    Raises:
        DeviceMemoryError: Out of memory.
        DeviceError: Any other reason.
    """
    return _as(DeviceError, f"backend '{backend}': the network failed", shape, errors)


@contextmanager
def _as(
    kind: type[AnomalySegError],
    what: str,
    shape: Shape,
    errors: tuple[type[Exception], ...],
) -> Iterator[None]:
    # ImportError: compilers import their parts when they need them.
    caught: tuple[type[Exception], ...] = (MemoryError, ImportError, *errors)
    try:
        yield
    except caught as error:
        ours = DeviceMemoryError if is_out_of_memory(error) else kind
        reason = missing_package(error) or _first_reason(error)
        raise ours(f"{what} at {shape[1]} x {shape[2]}: {reason}") from error


def _first_reason(error: Exception) -> str:
    """The first line that is not one of the source locations and checks of C++ runtimes."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if not line.startswith(("Exception from ", "Check "))]
    return (reasons or lines or [type(error).__name__])[0]

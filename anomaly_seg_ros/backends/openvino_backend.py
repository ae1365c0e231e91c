"""OpenVINO on the CPU: two to six times as fast as torch where the CPU multiplies bfloat16."""

from __future__ import annotations

import copy
import functools
import warnings

import numpy as np
import openvino
import torch
from torch import nn

from anomaly_seg_ros.backends.compiled_sizes import CompiledSizes
from anomaly_seg_ros.backends.contract import ScaledNetwork, as_batch, as_output
from anomaly_seg_ros.backends.failures import while_converting, while_running
from anomaly_seg_ros.metadata import ModelMetadata
from anomaly_seg_ros.models.contract import NetworkOutput
from anomaly_seg_ros.models.rounding import round_kernels
from anomaly_seg_ros.stopwatch import Stopwatch

_HINTS = {"fp32": "f32", "bf16": "bf16"}


@functools.cache
def process_core() -> openvino.Core:
    """The one Core of this process, which is never given up.

    On CPUs with AMX each Core gives the thread that makes it a stack for signal handlers, and
    takes that memory back at its own end. With several Cores, or threads, a thread may be left
    with a stack that is gone: the next signal, a Ctrl-C or a child's end, is then a segmentation
    fault (OpenVINO 2026.4).
    """
    return openvino.Core()


def multiplies_bf16() -> bool:
    """Whether this CPU has instructions for bfloat16 that OpenVINO uses."""
    return "BF16" in process_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoBackend:
    """Runs the network with OpenVINO, converted anew for each size of frame.

    Args:
        network: BatchNorm folded already, float32, on the CPU; left as it is.
        metadata: Of the network.
        precision: ``fp32`` or ``bf16``.
        threads: Of the network.
    """

    name = "openvino"
    notes = ()

    def __init__(
        self, network: nn.Module, metadata: ModelMetadata, precision: str, threads: int
    ) -> None:
        self.precision = precision
        if precision == "bf16":
            network = round_kernels(copy.deepcopy(network), torch.bfloat16)
        self._network = ScaledNetwork(network, metadata)
        self._settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            # Pinned threads would fight for their cores with those of DDS.
            "ENABLE_CPU_PINNING": False,
        }
        self._requests = CompiledSizes(self._compile)

    def __call__(self, frames: np.ndarray, watch: Stopwatch) -> NetworkOutput:
        """See :class:`~anomaly_seg_ros.backends.contract.Backend`."""
        # One at a time: on a CPU a batch takes as long as its frames.
        results = []
        for frame in frames:
            request = self._requests[(1, *frame.shape)]
            # Memory that is read-only cannot be shared: np.require copies it.
            pixels = np.require(frame, requirements=("C", "W"))[None]
            pixels = openvino.Tensor(pixels, shared_memory=True)
            watch.lap("upload")
            with while_running(self.name, frames.shape, (RuntimeError,)):
                outputs = request.infer([pixels], share_outputs=len(frames) == 1)
            tensors = [torch.from_numpy(outputs[i]) for i in range(len(outputs))]
            results.append(as_output(tensors))
            watch.lap("network")
        return as_batch(results)

    def forget(self) -> None:
        """See :class:`~anomaly_seg_ros.backends.contract.Backend`."""
        self._requests.clear()

    def _compile(self, shape: tuple[int, ...]) -> openvino.InferRequest:
        example = torch.zeros(shape, dtype=torch.uint8)
        # OpenVINO's own errors are RuntimeErrors; torch.export adds the others.
        errors = (RuntimeError, ValueError, AssertionError)
        with (
            while_converting(self.name, shape, errors),
            torch.no_grad(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # of torch about its own export
            program = torch.export.export(self._network, (example,), strict=False)
            model = openvino.convert_model(program)
            compiled = process_core().compile_model(model, "CPU", self._settings)
            return compiled.create_infer_request()

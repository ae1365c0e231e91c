"""ONNX Runtime on the CPU, in float32."""

from __future__ import annotations

import io
import logging
import warnings

import numpy as np
import onnxruntime
import torch
from torch import nn

from anomaly_seg_ros.backends.compiled_sizes import CompiledSizes
from anomaly_seg_ros.backends.contract import ScaledNetwork, as_batch, as_output
from anomaly_seg_ros.backends.failures import while_converting, while_running
from anomaly_seg_ros.metadata import ModelMetadata
from anomaly_seg_ros.models.contract import NetworkOutput
from anomaly_seg_ros.stopwatch import Stopwatch

_INPUT = "frames"
_STATE = vars(onnxruntime.capi.onnxruntime_pybind11_state).values()
# All that ONNX Runtime raises: they have no base of their own.
_FAILURES = tuple(c for c in _STATE if isinstance(c, type) and issubclass(c, Exception))


class OnnxRuntimeBackend:
    """Runs the network with ONNX Runtime, converted anew for each size of frame.

    Args:
        network: BatchNorm folded already, float32, on the CPU; left as it is.
        metadata: Of the network.
        threads: Of the network.
    """

    name = "onnxruntime"
    precision = "fp32"
    notes = ()

    def __init__(self, network: nn.Module, metadata: ModelMetadata, threads: int) -> None:
        self._network = ScaledNetwork(network, metadata)
        self._options = onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = threads
        # Threads that wait by spinning take the cores which DDS needs.
        self._options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._sessions = CompiledSizes(self._compile)

    def __call__(self, frames: np.ndarray, watch: Stopwatch) -> NetworkOutput:
        """See :class:`~anomaly_seg_ros.backends.contract.Backend`."""
        # One at a time: on a CPU a batch takes as long as its frames, and each size of batch would
        # be a conversion of its own.
        results = []
        for frame in frames:
            pixels = np.ascontiguousarray(frame)[None]
            session = self._sessions[pixels.shape]
            watch.lap("upload")
            with while_running(self.name, frames.shape, _FAILURES):
                outputs = session.run(None, {_INPUT: pixels})
            results.append(as_output([torch.from_numpy(array) for array in outputs]))
            watch.lap("network")
        return as_batch(results)

    def forget(self) -> None:
        """See :class:`~anomaly_seg_ros.backends.contract.Backend`."""
        self._sessions.clear()

    def _compile(self, shape: tuple[int, ...]) -> onnxruntime.InferenceSession:
        logger = logging.getLogger("torch.onnx")
        level = logger.level
        logger.setLevel(logging.ERROR)  # it warns of torchvision's operators, used or not
        failures = (torch.onnx.OnnxExporterError, *_FAILURES)
        try:
            with (
                while_converting(self.name, shape, failures),
                torch.no_grad(),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")
                program = torch.onnx.export(
                    self._network,
                    (torch.zeros(shape, dtype=torch.uint8),),
                    dynamo=True,
                    input_names=[_INPUT],
                    verbose=False,
                )
                data = io.BytesIO()
                program.save(data)
                return onnxruntime.InferenceSession(
                    data.getvalue(), self._options, providers=["CPUExecutionProvider"]
                )
        finally:
            logger.setLevel(level)

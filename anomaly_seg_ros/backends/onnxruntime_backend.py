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
from anomaly_seg_ros.backends.contract import ScaledNetwork, as_output
from anomaly_seg_ros.errors import ExportError, first_line
from anomaly_seg_ros.metadata import ModelMetadata
from anomaly_seg_ros.models.contract import NetworkOutput
from anomaly_seg_ros.stopwatch import Stopwatch

_INPUT = "frames"


class OnnxRuntimeBackend:
    """Runs the network with ONNX Runtime, converted anew for each size of frame.

    Args:
        network: BatchNorm folded already, float32, on the CPU; left as it is.
        metadata: Of the network.
        threads: Of the network.
    """

    name = "onnxruntime"
    precision = "fp32"

    def __init__(self, network: nn.Module, metadata: ModelMetadata, threads: int) -> None:
        self._network = ScaledNetwork(network, metadata)
        self._options = onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = threads
        # Threads that wait by spinning take the cores which DDS needs.
        self._options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._sessions = CompiledSizes(self._compile)

    def __call__(self, frames: np.ndarray, watch: Stopwatch) -> NetworkOutput:
        """See :class:`~anomaly_seg_ros.backends.contract.Backend`."""
        frames = np.ascontiguousarray(frames)
        session = self._sessions[frames.shape]
        watch.lap("upload")
        outputs = session.run(None, {_INPUT: frames})
        watch.lap("network")
        return as_output([torch.from_numpy(array) for array in outputs])

    def _compile(self, shape: tuple[int, ...]) -> onnxruntime.InferenceSession:
        logger = logging.getLogger("torch.onnx")
        level = logger.level
        logger.setLevel(logging.ERROR)  # it warns of torchvision's operators, used or not
        failures = onnxruntime.capi.onnxruntime_pybind11_state
        try:
            with torch.no_grad(), warnings.catch_warnings():
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
        except (torch.onnx.OnnxExporterError, failures.Fail, failures.InvalidGraph) as error:
            raise ExportError(
                f"backend 'onnxruntime': the network cannot be converted at {shape[1]} x "
                f"{shape[2]}: {first_line(error)}"
            ) from error
        finally:
            logger.setLevel(level)

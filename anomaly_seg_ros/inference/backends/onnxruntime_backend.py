# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on the CPU, in float32."""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn

from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.export.files import silent_onnx_exporter
from anomaly_seg_ros.inference.backends.compiled import CompiledBackend, Program

_INPUT = "frames"
_STATE = vars(onnxruntime.capi.onnxruntime_pybind11_state).values()
# Everything that ONNX Runtime raises: its exceptions share no base class.
_FAILURES = tuple(c for c in _STATE if isinstance(c, type) and issubclass(c, Exception))


class OnnxRuntimeBackend(CompiledBackend):
    """Runs the network with ONNX Runtime.

    Args:
        network, metadata: See :class:`CompiledBackend`.
        threads: CPU threads to run it with.
    """

    name = "onnxruntime"
    precision = "fp32"
    runtime_errors = _FAILURES
    conversion_errors = (torch.onnx.OnnxExporterError, *_FAILURES)

    def __init__(self, network: nn.Module, metadata: ModelMetadata, threads: int) -> None:
        super().__init__(network, metadata)
        self._options = onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = threads
        # Spinning threads would take cores that DDS needs.
        self._options.add_session_config_entry("session.intra_op.allow_spinning", "0")

    def _convert(self, example: torch.Tensor) -> Program:
        with silent_onnx_exporter(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                self._network, (example,), dynamo=True, input_names=[_INPUT], verbose=False
            )
        file = io.BytesIO()
        program.save(file)
        session = onnxruntime.InferenceSession(
            file.getvalue(), self._options, providers=["CPUExecutionProvider"]
        )
        return functools.partial(_infer, session)


def _infer(session: onnxruntime.InferenceSession, pixels: np.ndarray) -> Sequence[np.ndarray]:
    return session.run(None, {_INPUT: pixels})

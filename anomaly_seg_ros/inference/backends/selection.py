# SPDX-License-Identifier: Apache-2.0
"""Choosing the backend that runs a network, and explaining the choice to the user."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.contract import NetworkOutput, SegmentationNetwork
from anomaly_seg_ros.errors import ExportError, ParameterError
from anomaly_seg_ros.export.files import ONNX_PACKAGES
from anomaly_seg_ros.inference.backends.contract import Backend
from anomaly_seg_ros.inference.backends.torch_backend import TorchBackend
from anomaly_seg_ros.inference.backends.torch_compile_backend import TorchCompileBackend
from anomaly_seg_ros.inference.devices import cpu_threads
from anomaly_seg_ros.inference.options import (
    AUTO,
    BACKENDS,
    ONNXRUNTIME,
    OPENVINO,
    TORCH,
    TORCH_COMPILE,
    SegmenterOptions,
)
from anomaly_seg_ros.system.missing_packages import in_one_line
from anomaly_seg_ros.system.stopwatch import Stopwatch

# Fastest first, see docs/performance.md. Without torch_compile, which needs a C++ compiler and a
# minute before the first frame.
CPU_ORDER = (OPENVINO, ONNXRUNTIME, TORCH)
_SMALL_FRAME = 64  # height and width in pixels
_NEEDS = {OPENVINO: ("openvino",), ONNXRUNTIME: ONNX_PACKAGES}


class Selection(NamedTuple):
    """The chosen backend.

    Attributes:
        backend: Ready to run.
        notes: Sentences that explain the choice to a user; empty for the first choice.
    """

    backend: Backend
    notes: tuple[str, ...]


class _Setup(NamedTuple):
    """The arguments of :func:`select_backend` that each candidate is built from."""

    network: SegmentationNetwork
    metadata: ModelMetadata
    options: SegmenterOptions
    device: torch.device


def select_backend(
    network: SegmentationNetwork,
    metadata: ModelMetadata,
    options: SegmenterOptions,
    device: torch.device,
    size: tuple[int, int],
) -> Selection:
    """Builds the chosen backend; with ``auto``, candidates run once before they are taken.

    Args:
        network: BatchNorm folded already, float32, on the CPU; taken over.
        metadata: The network's metadata.
        options: ``backend`` is a name, or ``auto``: torch on a GPU; on the CPU the first of
            :data:`CPU_ORDER` that can be imported, offers the precision, converts the network and
            runs it once. ``precision`` ``auto`` is fp16 on a GPU, bf16 with OpenVINO on a CPU
            with bfloat16 instructions for a network that stands it (``network.bf16``), and fp32
            otherwise. ``num_threads`` and ``cuda_graphs`` are handed on.
        device: The CPU or a GPU.
        size: (height, width) of the frame to try.

    Raises:
        ExportError: The named backend cannot run the network, or with ``auto`` none can: names
            each and its reason.
        ParameterError: The backend is unknown or not installed, or lacks the device or precision.
    """
    name = options.backend
    if name not in BACKENDS:
        raise ParameterError(f"backend {name!r}: expected one of {', '.join(BACKENDS)}")
    setup = _Setup(network, metadata, options, device)
    if name != AUTO:
        return Selection(_build(name, setup), ())
    if device.type == "cuda":
        return Selection(_build(TORCH, setup), ())
    notes: list[str] = []
    refusals: list[str] = []
    for candidate in CPU_ORDER:
        try:
            backend = _tried(candidate, setup, size)
        # Foreign compilers raise anything, from ImportError to types of their own, and no failure
        # of one candidate speaks against the next.
        except Exception as error:  # noqa: BLE001
            reason = in_one_line(error)
            notes.append(f"backend '{candidate}' is not used: {reason}")
            refusals.append(f"{candidate}: {reason}")
            continue
        if notes:
            notes.append(f"backend '{backend.name}' ({backend.precision}) takes its place")
        return Selection(backend, tuple(notes))
    raise ExportError(f"backend 'auto': none runs this network ({'; '.join(refusals)})")


def _tried(name: str, setup: _Setup, size: tuple[int, int]) -> Backend:
    """Builds a backend and runs it once, because only that shows whether it takes the network."""
    backend = _build(name, setup)
    if name == TORCH:
        # torch takes any network; a small frame shows whether torch itself works here. A lack of
        # memory at full size is left to the caller, who may fall back to tiles.
        multiple = setup.network.size_multiple
        enough = -(-_SMALL_FRAME // multiple) * multiple
        size = (min(size[0], enough), min(size[1], enough))
    output = backend(np.zeros((1, *size, 3), np.uint8), Stopwatch(setup.device))
    if name != TORCH:  # torch is the reference: bad outputs are the network's own
        _check_output(name, output)
    return backend


def _check_output(name: str, output: NetworkOutput) -> None:
    """Checks the logits of one frame.

    Raises:
        ExportError: They have a wrong shape, or are NaN or infinite.
    """
    if output.logits.ndim != 4 or len(output.logits) != 1:
        raise ExportError(f"backend '{name}': logits of shape {tuple(output.logits.shape)}")
    for tensor in (output.logits, output.ood_logits):
        if tensor is not None and not bool(tensor.isfinite().all()):
            raise ExportError(f"backend '{name}': its logits are not finite")


def _build(name: str, setup: _Setup) -> Backend:
    if name in _NEEDS:
        return _build_runtime(name, setup)
    options = setup.options
    kind = TorchCompileBackend if name == TORCH_COMPILE else TorchBackend
    return kind(
        setup.network, setup.metadata, setup.device, options.precision, options.cuda_graphs
    )


def _build_runtime(name: str, setup: _Setup) -> Backend:
    try:
        return _import_runtime(name, setup)
    except (ImportError, OSError, AttributeError) as error:  # a broken library, or another version
        raise ParameterError(f"backend '{name}' cannot be loaded: {in_one_line(error)}") from error


def _import_runtime(name: str, setup: _Setup) -> Backend:
    if setup.device.type != "cpu":
        raise ParameterError(f"backend '{name}' runs on the CPU only, not on {setup.device}")
    needed = _NEEDS[name]
    if absent := [package for package in needed if importlib.util.find_spec(package) is None]:
        raise ParameterError(
            f"backend '{name}' is not installed: pip install {' '.join(needed)} "
            f"(missing: {', '.join(absent)})"
        )
    precision, threads = setup.options.precision, cpu_threads(setup.options.num_threads)
    if name == OPENVINO:
        from anomaly_seg_ros.inference.backends.openvino_backend import (
            OpenVinoBackend,
            multiplies_bf16,
        )

        if precision == AUTO:
            precision = "bf16" if setup.network.bf16 and multiplies_bf16() else "fp32"
        _check_precision(name, precision, ("fp32", "bf16"))
        return OpenVinoBackend(setup.network, setup.metadata, precision, threads)
    from anomaly_seg_ros.inference.backends.onnxruntime_backend import OnnxRuntimeBackend

    _check_precision(name, "fp32" if precision == AUTO else precision, ("fp32",))
    return OnnxRuntimeBackend(setup.network, setup.metadata, threads)


def _check_precision(name: str, precision: str, offered: Sequence[str]) -> None:
    if precision not in offered:
        raise ParameterError(
            f"precision '{precision}': backend '{name}' has {' and '.join(offered)}"
        )

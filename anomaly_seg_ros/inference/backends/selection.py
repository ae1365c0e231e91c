"""Which backend runs a network, and what is said when it is not the one that was hoped for."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.errors import ExportError, ParameterError
from anomaly_seg_ros.export.files import ONNX_PACKAGES
from anomaly_seg_ros.inference.backends.contract import Backend
from anomaly_seg_ros.inference.backends.torch_backend import TorchBackend
from anomaly_seg_ros.inference.backends.torch_compile_backend import TorchCompileBackend
from anomaly_seg_ros.inference.options import (
    AUTO,
    BACKENDS,
    ONNXRUNTIME,
    OPENVINO,
    TORCH,
    TORCH_COMPILE,
    SegmenterOptions,
)
from anomaly_seg_ros.system.devices import cpu_threads
from anomaly_seg_ros.system.missing_packages import in_one_line
from anomaly_seg_ros.system.stopwatch import Stopwatch

# Fastest first, as docs/performance.md measures them. torch_compile is left out: it needs a C++
# compiler on the machine and takes a minute before the first frame.
CPU_ORDER = (OPENVINO, ONNXRUNTIME, TORCH)
# Pixels a side.
_SMALL_FRAME = 64
_NEEDS = {OPENVINO: ("openvino",), ONNXRUNTIME: ONNX_PACKAGES}


class Selection(NamedTuple):
    """What was found.

    Attributes:
        backend: What was chosen.
        notes: What a user should know about the choice, a sentence each; empty for the best one.
    """

    backend: Backend
    notes: tuple[str, ...]


class _Wish(NamedTuple):
    """Arguments of :func:`select_backend` that each candidate gets."""

    network: nn.Module
    metadata: ModelMetadata
    options: SegmenterOptions
    device: torch.device


def select_backend(
    network: nn.Module,
    metadata: ModelMetadata,
    options: SegmenterOptions,
    device: torch.device,
    size: tuple[int, int],
) -> Selection:
    """Finds the backend; those of several that may fail are run once.

    Args:
        network: BatchNorm folded already, float32, on the CPU; taken over.
        metadata: The network's metadata.
        options: ``backend``: a name, or ``auto``: torch on a GPU; on the CPU the first of
            :data:`CPU_ORDER` that can be imported, offers the precision, takes the network and
            runs it once. Whatever goes wrong with one, the next is tried. ``precision``:
            ``auto`` is fp16 on a GPU, bf16 with OpenVINO on a CPU that multiplies it, and fp32
            otherwise. Also ``num_threads`` and ``cuda_graphs``.
        device: The CPU or a GPU.
        size: (height, width) of the frame to try.

    Raises:
        ExportError: The named backend does not take the network, or with ``auto`` none does:
            names each and its reason.
        ParameterError: There is no such backend, it is not installed, or it has not this device
            or precision.
    """
    name = options.backend
    if name not in BACKENDS:
        raise ParameterError(f"backend {name!r}: expected one of {', '.join(BACKENDS)}")
    wish = _Wish(network, metadata, options, device)
    if name != AUTO:
        return Selection(_build(name, wish), ())
    if device.type == "cuda":
        return Selection(_build(TORCH, wish), ())
    notes: list[str] = []
    refusals: list[str] = []
    for candidate in CPU_ORDER:
        try:
            backend = _tried(candidate, wish, size)
        # Nobody can list what foreign compilers raise, from a missing module to a type of their
        # own, and any of it leaves the other candidates as good as they were.
        except Exception as error:  # noqa: BLE001
            reason = in_one_line(error)
            notes.append(f"backend '{candidate}' is not used: {reason}")
            refusals.append(f"{candidate}: {reason}")
            continue
        if notes:
            notes.append(f"backend '{backend.name}' ({backend.precision}) takes its place")
        return Selection(backend, tuple(notes))
    raise ExportError(f"backend 'auto': none runs this network ({'; '.join(refusals)})")


def _tried(name: str, wish: _Wish, size: tuple[int, int]) -> Backend:
    """A backend that has run once: whether it takes a network shows only then."""
    backend = _build(name, wish)
    if name == TORCH:
        # It takes any network; a small frame shows whether torch itself works here. What does not
        # fit into memory at full size is for the caller, who may go on in tiles.
        multiple = wish.network.size_multiple
        enough = -(-_SMALL_FRAME // multiple) * multiple
        size = (min(size[0], enough), min(size[1], enough))
    output = backend(np.zeros((1, *size, 3), np.uint8), Stopwatch(wish.device))
    if name != TORCH:  # which is the measure: what it gives is the network's own doing
        _check_output(name, output)
    return backend


def _check_output(name: str, output: NetworkOutput) -> None:
    """Refuses what no network of ours returns.

    Raises:
        ExportError: The logits are not one map a class, or are NaN or infinite.
    """
    if output.logits.ndim != 4 or len(output.logits) != 1:
        raise ExportError(f"backend '{name}': logits of shape {tuple(output.logits.shape)}")
    for tensor in (output.logits, output.ood_logits):
        if tensor is not None and not bool(tensor.isfinite().all()):
            raise ExportError(f"backend '{name}': its logits are not finite")


def _build(name: str, wish: _Wish) -> Backend:
    if name in _NEEDS:
        return _build_runtime(name, wish)
    options = wish.options
    kind = TorchCompileBackend if name == TORCH_COMPILE else TorchBackend
    return kind(wish.network, wish.metadata, wish.device, options.precision, options.cuda_graphs)


def _build_runtime(name: str, wish: _Wish) -> Backend:
    try:
        return _import_runtime(name, wish)
    except (ImportError, OSError, AttributeError) as error:  # its libraries, or their versions
        raise ParameterError(f"backend '{name}' cannot be loaded: {in_one_line(error)}") from error


def _import_runtime(name: str, wish: _Wish) -> Backend:
    if wish.device.type != "cpu":
        raise ParameterError(f"backend '{name}' runs on the CPU only, not on {wish.device}")
    needed = _NEEDS[name]
    if absent := [package for package in needed if importlib.util.find_spec(package) is None]:
        raise ParameterError(
            f"backend '{name}' is not installed: pip install {' '.join(needed)} "
            f"(missing: {', '.join(absent)})"
        )
    precision, threads = wish.options.precision, cpu_threads(wish.options.num_threads)
    if name == OPENVINO:
        from anomaly_seg_ros.inference.backends.openvino_backend import (
            OpenVinoBackend,
            multiplies_bf16,
        )

        if precision == AUTO:
            precision = "bf16" if multiplies_bf16() else "fp32"
        _check_precision(name, precision, ("fp32", "bf16"))
        return OpenVinoBackend(wish.network, wish.metadata, precision, threads)
    from anomaly_seg_ros.inference.backends.onnxruntime_backend import OnnxRuntimeBackend

    _check_precision(name, "fp32" if precision == AUTO else precision, ("fp32",))
    return OnnxRuntimeBackend(wish.network, wish.metadata, threads)


def _check_precision(name: str, precision: str, offered: Sequence[str]) -> None:
    if precision not in offered:
        raise ParameterError(
            f"precision '{precision}': backend '{name}' has {' and '.join(offered)}"
        )

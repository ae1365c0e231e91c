# SPDX-License-Identifier: Apache-2.0
"""Chooses the compute device, the numeric precision and the number of CPU threads."""

from __future__ import annotations

import os

import torch

from anomaly_seg_ros.errors import DeviceError, ParameterError
from anomaly_seg_ros.inference.options import PRECISIONS

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def select_device(name: str = "auto") -> torch.device:
    """Resolves ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        DeviceError: The name is malformed or there is no such device.
    """
    available = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda", 0) if available else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"device {name!r}: expected auto, cpu, cuda or cuda:N") from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise DeviceError(f"device {name!r}: expected auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count() if available else 0
    index = device.index or 0
    if index >= count:
        raise DeviceError(f"device {name!r}: this machine has {count} CUDA devices")
    return torch.device("cuda", index)


def select_precision(name: str, device: torch.device) -> tuple[str, torch.dtype]:
    """Resolves ``auto``: fp16 on CUDA, fp32 on the CPU.

    bf16 pays on CPUs that multiply it in hardware (AMX, AVX512-BF16), and is several times slower
    on others; so it is never the default.

    Raises:
        ParameterError: The name is unknown, or is fp16 on the CPU.
    """
    if name not in PRECISIONS:
        raise ParameterError(f"precision {name!r}: expected one of {', '.join(PRECISIONS)}")
    if name == "auto":
        name = "fp16" if device.type == "cuda" else "fp32"
    if name == "fp16" and device.type == "cpu":
        raise ParameterError("precision 'fp16' needs a CUDA device; use bf16 or fp32 on the CPU")
    return name, _DTYPES[name]


def cpu_threads(wanted: int = 0) -> int:
    """Number of threads of a network on the CPU.

    Args:
        wanted: Number of threads; 0 takes all cores, less one for DDS and the executor if there
            are more than four. With fewer, a core is worth more to the network.
    """
    if wanted > 0:
        return wanted
    affinity = getattr(os, "sched_getaffinity", None)  # absent outside Linux
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return cores - 1 if cores > 4 else cores

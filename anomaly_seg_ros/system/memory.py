# SPDX-License-Identifier: Apache-2.0
"""Measures peak memory, and makes running out of it a clear error."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from anomaly_seg_ros.errors import DeviceMemoryError, first_line

MIB = 2**20
# Words of out-of-memory errors that have no type of their own: of torch's CPU allocator, the CUDA
# driver, cuBLAS, cuDNN, OpenVINO, ONNX Runtime, the C++ library and the operating system. The last
# two are raised when cuDNN's algorithms or cuBLAS got no workspace.
_SIGNS = (
    "bad_alloc",
    "bad allocation",
    "can't allocate memory",
    "cannot allocate memory",
    "_alloc_failed",
    "_allocation_failed",
    "failed to allocate",
    "not enough memory",
    "out of memory",
    "unable to find an engine to execute this computation",
    "cublas_status_not_initialized when calling `cublascreate",
)


class PeakMemory(NamedTuple):
    """The most memory in use at once.

    Attributes:
        mib: The peak in MiB (2^20 bytes).
        what: The measured quantity in words, as CPU and GPU figures are not comparable.
    """

    mib: float
    what: str


def reset_peak(device: torch.device) -> None:
    """Restarts the measurement on a GPU; on the CPU it always starts with the process."""
    # torch refuses the call before its first use, when there is nothing to reset.
    if device.type == "cuda" and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> PeakMemory:
    """The peak so far, of tensors on a GPU or of the whole process on the CPU."""
    if device.type == "cuda":
        mib = torch.cuda.max_memory_allocated(device) / MIB
        return PeakMemory(mib, f"allocated by torch on {device} since the model was loaded")
    return PeakMemory(resident_peak_mib(), "resident in the whole process since it started")


def is_out_of_memory(error: BaseException) -> bool:
    """True for an error that torch, a runtime or Python raises when memory runs out."""
    if isinstance(error, (MemoryError, DeviceMemoryError, torch.OutOfMemoryError)):
        return True
    words = str(error).lower()
    return any(sign in words for sign in _SIGNS)


@contextmanager
def out_of_memory_as_device_error(situation: str) -> Iterator[None]:
    """Turns every kind of "out of memory" into a DeviceMemoryError; lets other errors pass.

    Args:
        situation: The activity and how it would need less memory; ends the message.

    Raises:
        DeviceMemoryError: The device ran out of memory.
    """
    try:
        yield
    # torch.OutOfMemoryError is a RuntimeError; a backend has turned its runtime's into ours.
    except (MemoryError, RuntimeError, DeviceMemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceMemoryError(f"out of memory {situation} ({first_line(error)})") from error


def resident_peak_mib(process: int | str = "self") -> float:
    """Peak resident memory of a process, in MiB.

    Args:
        process: Its id; processes other than this one work only on Linux.

    Raises:
        ValueError: There is no such process, or it has ended.
    """
    try:
        for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):  # "high water mark", in kB of 1024 bytes
                return int(line.split()[1]) / 1024
    except OSError:
        pass  # not Linux, or no such process
    if process != "self":
        raise ValueError(f"process {process}: nothing is known of its memory")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024

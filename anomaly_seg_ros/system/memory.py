"""Peak memory, as measured, and running out of it, as a clear error."""

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
# In errors without a type of their own: of torch's CPU allocator, the CUDA driver, cuBLAS, cuDNN,
# OpenVINO, ONNX Runtime, the C++ library and the operating system. The last two: torch says the
# one when no algorithm of cuDNN got its workspace, and cuBLAS the other when it got none.
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
    """The most memory that was in use at once.

    Attributes:
        mib: In MiB (2^20 bytes).
        what: What was measured, in words: the figures of CPU and GPU are different things.
    """

    mib: float
    what: str


def reset_peak(device: torch.device) -> None:
    """Begins a new measurement on a GPU; on the CPU the process began it when it started."""
    # Before its first use torch refuses the call, and there is nothing to begin anew.
    if device.type == "cuda" and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> PeakMemory:
    """The peak so far: of tensors on a GPU, of the whole process on the CPU."""
    if device.type == "cuda":
        mib = torch.cuda.max_memory_allocated(device) / MIB
        return PeakMemory(mib, f"allocated by torch on {device} since the model was loaded")
    return PeakMemory(resident_peak_mib(), "resident in the whole process since it started")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is what torch, a runtime or Python raises when the memory does not suffice."""
    if isinstance(error, (MemoryError, DeviceMemoryError, torch.OutOfMemoryError)):
        return True
    words = str(error).lower()
    return any(sign in words for sign in _SIGNS)


@contextmanager
def out_of_memory_as_device_error(situation: str) -> Iterator[None]:
    """Turns every kind of "out of memory" into a DeviceMemoryError; lets other errors pass.

    Args:
        situation: What was being done and what would need less; ends the message.

    Raises:
        DeviceMemoryError: The device's memory did not suffice.
    """
    try:
        yield
    # torch.OutOfMemoryError is a RuntimeError; a backend has turned its runtime's into ours.
    except (MemoryError, RuntimeError, DeviceMemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceMemoryError(f"out of memory {situation} ({first_line(error)})") from error


def resident_peak_mib(process: int | str = "self") -> float:
    """The most memory that a process has had resident, in MiB.

    Args:
        process: Its number; other processes than this one are known to Linux only.

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

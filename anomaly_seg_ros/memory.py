"""Peak memory, as measured, and running out of it, as a clear error."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from anomaly_seg_ros.errors import DeviceMemoryError

MIB = 2**20
_STATUS = Path("/proc/self/status")
# What torch says in a plain RuntimeError: its CPU allocator, the CUDA driver, cuBLAS.
_SIGNS = ("DefaultCPUAllocator", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


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
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> PeakMemory:
    """The peak so far: of tensors on a GPU, of the whole process on the CPU."""
    if device.type == "cuda":
        mib = torch.cuda.max_memory_allocated(device) / MIB
        return PeakMemory(mib, f"allocated by torch on {device} since the model was loaded")
    return PeakMemory(_resident_peak_mib(), "resident in the whole process since it started")


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
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not known and not any(sign in str(error) for sign in _SIGNS):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DeviceMemoryError(f"out of memory {situation} ({reason})") from error


def _resident_peak_mib() -> float:
    try:
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):  # "high water mark", in kB of 1024 bytes
                return int(line.split()[1]) / 1024
    except OSError:
        pass  # not Linux
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024

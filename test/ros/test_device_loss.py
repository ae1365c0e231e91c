# SPDX-License-Identifier: Apache-2.0
"""Which errors mean that the device is gone, and when it is tried again."""

from __future__ import annotations

import pytest
import torch

from anomaly_seg_ros.errors import DeviceError, DeviceMemoryError
from anomaly_seg_ros.ros.device_loss import LONGEST_DELAY_S, Recovery, is_lost
from anomaly_seg_ros.system.memory import out_of_memory_as_device_error

AcceleratorError = getattr(torch, "AcceleratorError", RuntimeError)
HINT = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the "
    "stacktrace below might be incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1"
)


@pytest.mark.parametrize("kind", [AcceleratorError, RuntimeError])
@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: device-side assert triggered",
        "CUDA error: unspecified launch failure",
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA error: the launch timed out and was terminated",
        "CUDA error: no CUDA-capable device is detected",
        "CUDA error: CUDA-capable device(s) is/are busy or unavailable",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb)`",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
        "No CUDA GPUs are available",
    ],
)
def test_lost_devices(kind, words):
    assert is_lost(kind(words + HINT))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        AcceleratorError("CUDA error: out of memory" + HINT),
        AcceleratorError("CUDA error: invalid argument" + HINT),
        RuntimeError("CUDA error: invalid configuration argument"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(h)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
        ValueError("CUDA error: device-side assert triggered"),  # of whoever speaks of it
        DeviceError("device 'cuda:3': this machine has 1 CUDA devices"),
        MemoryError(),
    ],
    ids=lambda error: f"{type(error).__name__}: {str(error).splitlines()[:1]}",
)
def test_errors_that_concern_one_frame(error):
    assert not is_lost(error)


def test_what_an_error_was_raised_from_counts():
    cause = RuntimeError("CUDA error: unspecified launch failure")
    error = ValueError("the backend failed")
    error.__cause__ = cause
    assert is_lost(error)


def test_out_of_memory_is_no_loss_under_its_own_name_either():
    with pytest.raises(DeviceMemoryError) as caught, out_of_memory_as_device_error("somewhere"):
        raise RuntimeError("CUDA error: out of memory")
    assert not is_lost(caught.value)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_waits_twice_as_long_each_time_and_gives_up():
    clock = Clock()
    recovery = Recovery(clock)
    delays = []
    while (delay := recovery.schedule(allowed=8)) is not None:
        delays.append(delay)
        assert not recovery.is_due()
        clock.now += delay - 0.01
        assert not recovery.is_due()
        clock.now += 0.01
        assert recovery.is_due()
        assert not recovery.is_due()  # once
    assert delays == [1, 2, 4, 8, 16, 32, LONGEST_DELAY_S, LONGEST_DELAY_S]
    assert not recovery.is_due()


def test_none_are_made_unless_allowed_or_after_a_cancel():
    clock = Clock()
    recovery = Recovery(clock)
    assert recovery.schedule(allowed=0) is None
    assert recovery.schedule(allowed=1) == 1
    recovery.cancel()
    clock.now += 1000
    assert not recovery.is_due()


def test_begins_anew_after_success():
    clock = Clock()
    recovery = Recovery(clock)
    for _ in range(3):
        recovery.schedule(allowed=3)
        clock.now += 1000
        assert recovery.is_due()
    assert recovery.schedule(allowed=3) is None
    recovery.succeeded()
    assert recovery.schedule(allowed=3) == 1

# SPDX-License-Identifier: Apache-2.0
"""Recognising a lack of memory, and beginning to measure it."""

from __future__ import annotations

import pytest
import torch

from anomaly_seg_ros.errors import DeviceMemoryError
from anomaly_seg_ros.system.memory import is_out_of_memory, reset_peak

ENGINES = "was unable to find an engine to execute this computation"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        DeviceMemoryError("no room"),
        MemoryError(),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(h)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
        RuntimeError(f"GET {ENGINES}"),
        RuntimeError(f"FIND {ENGINES}"),
        RuntimeError("std::bad_alloc"),
    ],
    ids=lambda error: f"{type(error).__name__}: {error}",
)
def test_a_lack_of_memory(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "words",
    [
        "mat1 and mat2 shapes cannot be multiplied",
        "CUDA error: unspecified launch failure",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasSgemm(handle)`",
    ],
)
def test_other_errors(words: str) -> None:
    assert not is_out_of_memory(RuntimeError(words))


def test_a_gpu_that_is_not_in_use_yet_has_no_peak_to_reset() -> None:
    """torch refuses it before its first use of CUDA, which is when a node begins to load."""
    reset_peak(torch.device("cuda", 0))

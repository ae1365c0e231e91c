# SPDX-License-Identifier: Apache-2.0
"""Backward pass of depthwise convolutions on the CPU: bfloat16 against float32.

    python -m benchmarks.depthwise_backward

The reason for ``use_float32_backward`` in ``training/networks.py``: oneDNN's bfloat16 path is
several times slower for strided and for 5x5 kernels, as the ratios in the last column show.
"""

from __future__ import annotations

from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.stopwatch import milliseconds

BATCH, REPEATS = 8, 5
# channels, kernel, stride, height = width: the layers of EfficientNet-Lite0 at 256x256.
LAYERS = (
    (32, 3, 1, 128),
    (96, 3, 2, 128),
    (144, 3, 1, 64),
    (144, 5, 2, 64),
    (240, 5, 1, 32),
    (672, 5, 1, 16),
    (1152, 5, 1, 8),
)


def backward(channels: int, kernel: int, stride: int, size: int, dtype: torch.dtype) -> float:
    """Median milliseconds of the whole backward pass of one layer."""

    def tensor(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)

    x = tensor(BATCH, channels, size, size)
    weight = torch.randn(channels, 1, kernel, kernel, dtype=dtype)
    y = F.conv2d(x, weight, None, stride, kernel // 2, groups=channels)
    grad = torch.randn_like(y)
    geometry = ([stride] * 2, [kernel // 2] * 2, [1, 1], False, [0, 0], channels)

    def call() -> object:
        outputs = [True, True, False]
        return torch.ops.aten.convolution_backward(grad, x, weight, None, *geometry, outputs)

    call()  # warms up
    return median(milliseconds(call) for _ in range(REPEATS))


def main() -> None:
    """Prints the table."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {BATCH}")
    print("channels kernel stride  size   bf16 ms   fp32 ms   ratio")
    for channels, kernel, stride, size in LAYERS:
        bf16 = backward(channels, kernel, stride, size, torch.bfloat16)
        fp32 = backward(channels, kernel, stride, size, torch.float32)
        print(
            f"{channels:8d} {kernel:6d} {stride:6d} {size:5d} {bf16:9.1f} {fp32:9.1f} "
            f"{bf16 / fp32:7.1f}"
        )


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Means over pixels that are correct if processes have different numbers of pixels.

DistributedDataParallel averages the gradients of W processes. If each process divided its sum by
its own count, a rank with three outlier pixels would weigh as much as one with three thousand.
Here, the local sum is divided by the global count and multiplied by W. The averaged gradient, and
the average of the values, then equal those of a single process with the whole batch.

Without gradients (in validation, which runs on one rank) nothing is exchanged, because waiting for
the other processes would hang.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def global_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over the pixels of all processes.

    Args:
        values: Floats of any shape; finite values with weight 0 have no effect.
        weights: Bool or float >= 0, of the same shape.

    Returns:
        A differentiable scalar; 0 if all weights are 0.
    """
    weights = weights.to(values.dtype)
    total = global_count(weights)
    scale = world_size() / torch.where(total > 0, total, 1.0)
    return (values * weights).sum() * scale.to(values.dtype)


def global_sum(values: Tensor) -> Tensor:
    """Sum over all processes, as in :func:`global_mean`: the local sum times W."""
    return values.sum() * world_size()


def global_count(weights: Tensor) -> Tensor:
    """Sum of weights over all processes, a detached float64 scalar."""
    total = weights.detach().sum(dtype=torch.float64)
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def world_size() -> int:
    """Number of processes that share an optimizer step."""
    if dist.is_available() and dist.is_initialized() and torch.is_grad_enabled():
        return dist.get_world_size()
    return 1

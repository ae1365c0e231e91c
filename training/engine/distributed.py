# SPDX-License-Identifier: Apache-2.0
"""One or several training processes: rank, world size, and what the ranks exchange."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from anomaly_seg_ros.inference.devices import select_device
from anomaly_seg_ros.system.process_group import leave_process_group

# The other ranks wait this long while the main rank validates.
_PATIENCE = timedelta(hours=1)


def training_device(name: str) -> torch.device:
    """Selects the device of this process; under torchrun ``cuda`` is the GPU of the local rank.

    Args:
        name: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        DeviceError: The name is malformed, the device does not exist, or this rank has none.
    """
    device = select_device(name)
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        device = select_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(device)
    return device


class Distributed:
    """Rank and world size from torchrun's environment; a single process without it.

    Args:
        device: Device of this process; decides between NCCL and gloo.
    """

    def __init__(self, device: torch.device) -> None:
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.device = device
        if self.world_size > 1:
            backend = "nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=_PATIENCE)

    @property
    def is_main(self) -> bool:
        """True for the process that logs, validates and writes files."""
        return self.rank == 0

    def agreed(self, decision: bool) -> bool:
        """Broadcasts the main process's decision; the other ranks wait for it."""
        if self.world_size == 1:
            return decision
        flag = torch.tensor([int(decision)], device=self.device)
        dist.broadcast(flag, src=0)
        return bool(flag.item())

    def means(self, figures: dict[str, float]) -> dict[str, float]:
        """Averages figures over the ranks; all of them must pass the same names."""
        if self.world_size == 1:
            return figures
        values = torch.tensor(list(figures.values()), device=self.device)
        dist.all_reduce(values)
        return dict(zip(figures, (values / self.world_size).tolist(), strict=True))

    def close(self) -> None:
        """Leaves the process group."""
        if self.world_size > 1:
            leave_process_group()


def share_parameters(model: nn.Module) -> None:
    """Copies the first process's weights to all processes; for models without DDP."""
    if _is_single():
        return
    for tensor in model.state_dict().values():
        dist.broadcast(tensor, src=0)


def average_gradients(model: nn.Module) -> None:
    """Averages the gradients over the processes in one exchange; for models without DDP.

    Parameters without a gradient get zeros, so that all processes exchange the same tensors.
    """
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    if _is_single():
        return
    gradients = [p.grad for p in model.parameters()]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def _is_single() -> bool:
    return not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1)

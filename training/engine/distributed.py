"""One process or several: rank, world size, and the few things that ranks tell each other."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist

from anomaly_seg_ros.system.devices import select_device
from anomaly_seg_ros.system.process_group import leave_process_group

# The other ranks wait while the main one validates.
_PATIENCE = timedelta(hours=1)


def training_device(name: str) -> torch.device:
    """The device of this process: ``cuda`` becomes the GPU of its local rank under torchrun.

    Args:
        name: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        DeviceError: The name is malformed, or there is no such device or none for this rank.
    """
    device = select_device(name)
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        device = select_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(device)
    return device


class Distributed:
    """Rank and world from torchrun's environment; one process without it.

    Args:
        device: Of this process; decides between NCCL and gloo.
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
        """Whether this process logs, validates and writes."""
        return self.rank == 0

    def agreed(self, decision: bool) -> bool:
        """The main process's decision, on every rank; the others wait for it."""
        if self.world_size == 1:
            return decision
        flag = torch.tensor([int(decision)], device=self.device)
        dist.broadcast(flag, src=0)
        return bool(flag.item())

    def means(self, figures: dict[str, float]) -> dict[str, float]:
        """Means over the ranks, which must all hand in figures of the same names."""
        if self.world_size == 1:
            return figures
        values = torch.tensor(list(figures.values()), device=self.device)
        dist.all_reduce(values)
        return dict(zip(figures, (values / self.world_size).tolist(), strict=True))

    def close(self) -> None:
        """Leaves the process group."""
        if self.world_size > 1:
            leave_process_group()

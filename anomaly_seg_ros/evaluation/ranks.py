"""The processes of a torchrun job, or the only one there is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed

from anomaly_seg_ros.system.process_group import leave_process_group

# Shares of the frames take different times, and one process merges while the others wait.
_PATIENCE = timedelta(days=1)


@dataclass(frozen=True)
class Ranks:
    """This process among those that share the frames.

    They share the output folder, too: states go through files there, so only :meth:`barrier` goes
    over the network.

    Attributes:
        rank: Number of this process.
        world: Number of processes.
    """

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process merges and writes."""
        return self.rank == 0

    def barrier(self) -> None:
        """Waits for all processes."""
        if self.world > 1:
            distributed.barrier()

    def set_threads(self, wanted: int | None) -> None:
        """Sets the number of CPU threads of this process.

        The order in which a network adds on the CPU depends on it, and with that the last digits
        of its scores. So it is the same with and without torchrun: all cores, unless
        OMP_NUM_THREADS or ``wanted`` say something else. torchrun sets OMP_NUM_THREADS to 1 by
        itself, which therefore says nothing.
        """
        told = os.environ.get("OMP_NUM_THREADS", "")
        if wanted is None and told.isdigit() and not (self.world > 1 and told == "1"):
            wanted = int(told)
        torch.set_num_threads(wanted or len(os.sched_getaffinity(0)))

    def device(self, name: str) -> str:
        """``auto`` with several GPUs: one for each process of a host."""
        if name == "auto" and self.world > 1 and torch.cuda.is_available():
            local = int(os.environ.get("LOCAL_RANK", "0"))
            return f"cuda:{local % torch.cuda.device_count()}"
        return name


@contextmanager
def torchrun_ranks() -> Iterator[Ranks]:
    """The processes that torchrun started; without it, this one alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks()
        return
    distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size())
    finally:
        leave_process_group()

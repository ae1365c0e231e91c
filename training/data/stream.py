# SPDX-License-Identifier: Apache-2.0
"""From a dataset to the micro-batches of each optimizer step, on every rank.

Batch ``s`` consists of the samples ``s * batch_size`` to ``(s + 1) * batch_size - 1``, regardless
of the number of processes, workers and micro-batches. A run therefore resumes with exactly the
batch that it would have drawn, and the samples of a batch can be named from its step.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from anomaly_seg_ros.errors import AnomalySegError, ParameterError, TrainingError
from training.engine.distributed import Distributed
from training.engine.steps import Batch, micro_batch_size
from training.engine.storage import tensor_bytes

_PREFETCH = 2
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where torch's workers put their batches


class SampleStream:
    """Micro-batches from a dataset whose sample ``i`` depends on ``i`` alone.

    Args:
        dataset: Dataset of tuples of tensors; an optional ``describe(i)`` names sample ``i`` in
            error messages.
        batch_size: Samples per optimizer step, over all processes and micro-batches.
        steps: Number of steps of the whole run.
        distributed: Rank and world size of this process.
        workers: Number of loader processes of this rank.
        accumulate: Micro-batches per step.

    Raises:
        ParameterError: ``batch_size`` does not split evenly, or ``workers`` is negative.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        steps: int,
        distributed: Distributed,
        workers: int = 0,
        accumulate: int = 1,
    ) -> None:
        if workers < 0:
            raise ParameterError(f"workers: expected 0 or more, got {workers}")
        self.micro_size = micro_batch_size(batch_size, distributed.world_size, accumulate)
        self.dataset = dataset
        self.steps = steps
        self.workers = workers
        self._local_size = batch_size // distributed.world_size
        self._distributed = distributed

    @classmethod
    def configured(
        cls, dataset: Dataset, config: Mapping[str, Any], distributed: Distributed
    ) -> SampleStream:
        """Reads ``batch_size``, ``steps``, ``workers`` and ``accumulate`` from a configuration."""
        return cls(
            dataset,
            config["batch_size"],
            config["steps"],
            distributed,
            config["workers"],
            config.get("accumulate", 1),
        )

    def batches(self, start: int) -> Iterator[Batch]:
        """Yields this rank's micro-batches from step ``start`` on.

        Raises:
            ParameterError: The loader would need more memory than is free.
            TrainingError: A worker died.
            AnomalySegError: A sample could not be read, in this process or in a worker.
        """
        sampler = self._sampler(start, self.steps)
        if not len(sampler):
            return
        self._check_memory(next(iter(sampler)))
        if self.workers:
            # Workers already share the cores. Also, a forked child would wait forever for the
            # threads of its parent's OpenCV pool.
            cv2.setNumThreads(0)
        loader = DataLoader(
            self.dataset,
            batch_size=self.micro_size,
            sampler=sampler,
            num_workers=self.workers,
            # Workers share the data set; what Python 3.14 prefers would pickle it for each.
            multiprocessing_context="fork" if self.workers else None,
            prefetch_factor=_PREFETCH if self.workers else None,
            pin_memory=torch.cuda.is_available(),
            drop_last=True,
        )
        try:
            yield from loader
        except AnomalySegError as error:
            # torch puts the worker's traceback before the message.
            message = str(error).rpartition(f"{type(error).__name__}: ")[2].strip()
            raise type(error)(message) from error
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise TrainingError(
                f"a loader process died, most likely for want of memory: {error}; "
                f"use fewer workers than {self.workers} or a smaller batch_size"
            ) from error

    def describe(self, step: int) -> str:
        """Names the samples in this rank's batch of a step."""
        indices = list(self._sampler(step, step + 1))
        name = getattr(self.dataset, "describe", None)
        if name is None:
            return f"samples {indices[0]} to {indices[-1]}"
        return "samples " + ", ".join(f"{i} ({name(i)})" for i in indices)

    def _sampler(self, start: int, stop: int) -> StepSampler:
        ranks = self._distributed
        return StepSampler(self._local_size, start, stop, ranks.rank, ranks.world_size)

    def _check_memory(self, index: int) -> None:
        sample: Any = self.dataset[index]
        batches_held = max(1, self.workers * _PREFETCH) + 1
        needed = tensor_bytes(sample) * self.micro_size * batches_held
        limits = {"memory": available_memory()}
        if self.workers and _SHARED_MEMORY.is_dir():
            limits[str(_SHARED_MEMORY)] = shutil.disk_usage(_SHARED_MEMORY).free
        for name, free in limits.items():
            if free is not None and needed > free:
                raise ParameterError(
                    f"the loader holds {batches_held} batches of {self.micro_size} samples, "
                    f"{needed / 1e6:.0f} MB, but {name} has {free / 1e6:.0f} MB free; use fewer "
                    f"workers than {self.workers}, a smaller batch_size or a larger accumulate"
                )


def available_memory() -> int | None:
    """Bytes that this process can still allocate, or None if unknown.

    The smaller of Linux's available memory and what the control group still allows.
    """
    free: list[int] = []
    group = Path("/sys/fs/cgroup")
    # Missing on other systems, or if the group has no such file.
    with contextlib.suppress(OSError):
        fields = Path("/proc/meminfo").read_text(encoding="ascii").split()
        free.append(1024 * int(fields[fields.index("MemAvailable:") + 1]))
    with contextlib.suppress(OSError):
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        if limit != "max":
            free.append(int(limit) - int((group / "memory.current").read_text(encoding="ascii")))
    return min(free, default=None)


class StepSampler(Sampler[int]):
    """Sample indices of this rank's share of every batch, from a given step on.

    Args:
        batch_size: Samples per rank and step.
        start: First step.
        stop: One past the last step.
        rank: Rank of this process.
        world_size: Number of processes.
    """

    def __init__(
        self, batch_size: int, start: int, stop: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.batch_size = batch_size
        self.steps = range(start, stop)
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return len(self.steps) * self.batch_size

    def __iter__(self) -> Iterator[int]:
        for step in self.steps:
            first = (step * self.world_size + self.rank) * self.batch_size
            yield from range(first, first + self.batch_size)

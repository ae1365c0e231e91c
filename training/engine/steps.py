"""What an optimizer step is made of: batches, random numbers, precision, averaging."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from anomaly_seg_ros.errors import ParameterError

# Tensors whose first dimension is the sample; a NamedTuple keeps its type.
Batch = tuple[Tensor, ...]


def grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """The micro-batches of each step; an incomplete last step is left out."""
    iterator = iter(batches)
    while len(group := list(islice(iterator, size))) == size:
        yield group


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Moves every tensor of a batch, which keeps its type."""
    moved = [part.to(device, non_blocking=True) for part in batch]
    return type(batch)(*moved) if hasattr(batch, "_fields") else tuple(moved)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Makes torch's random numbers a function of these three, on every device."""
    state = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]))


def warming_ema(decay: float) -> Callable:
    """An EMA whose decay grows with the number of updates, so early weights do not linger."""

    @torch.no_grad()
    def update(averaged: list[Tensor], live: list[Tensor], count: Tensor | int) -> None:
        current = min(decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(averaged, live, 1 - current)

    return update


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Mixed precision by name: ``fp32`` (none), ``bf16`` or ``fp16``.

    Raises:
        ParameterError: Another name.
    """
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    if precision == "fp32":
        return contextlib.nullcontext()
    if precision not in dtypes:
        raise ParameterError(f"precision {precision!r}, expected fp32, {', '.join(dtypes)}")
    return torch.autocast(device.type, dtypes[precision])

# SPDX-License-Identifier: Apache-2.0
"""The parts of an optimizer step: micro-batches, random numbers, precision, averaging."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from anomaly_seg_ros.errors import ParameterError
from training.engine.distributed import Distributed

# Tensors whose first dimension is the sample; may be a NamedTuple.
Batch = tuple[Tensor, ...]
# Start of torch's error when a layer normalises a batch without variance.
NO_VARIANCE = "Expected more than 1"
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Those of torch.cpu.get_capabilities() with which bf16 is faster than fp32.
_BF16_CPU = ("avx512_bf16", "amx_bf16")


def grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Groups micro-batches by step; drops an incomplete last step."""
    iterator = iter(batches)
    while len(group := list(islice(iterator, size))) == size:
        yield group


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Moves every tensor of a batch; the type of the batch is kept."""
    moved = [part.to(device, non_blocking=True) for part in batch]
    return type(batch)(*moved) if hasattr(batch, "_fields") else tuple(moved)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seeds torch on every device, as a function of run seed, step and rank."""
    state = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]))


def warming_ema(decay: float) -> Callable:
    """Returns an EMA update whose decay grows with the updates, so early weights fade quickly."""

    @torch.no_grad()
    def update(averaged: list[Tensor], live: list[Tensor], count: Tensor | int) -> None:
        current = min(decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(averaged, live, 1 - current)

    return update


def resolved_precision(device: torch.device, precision: str, network_bf16: bool = True) -> str:
    """Resolves ``auto``: bf16 where the hardware multiplies it, else fp32.

    Elsewhere a step in bf16 takes several times as long as in fp32. OpenVINO, which the node asks,
    would start its threads in a process that forks its workers.

    Args:
        device: Where the network is trained.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        network_bf16: See :class:`~anomaly_seg_ros.contract.SegmentationNetwork`; without, ``auto``
            is fp32 on every CPU.

    Raises:
        ParameterError: The name is unknown.
    """
    if precision not in ("auto", *_DTYPES):
        raise ParameterError(f"precision {precision!r}, expected auto, {', '.join(_DTYPES)}")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    # Absent from older versions of torch.
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return "bf16" if network_bf16 and any(map(capabilities.get, _BF16_CPU)) else "fp32"


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Returns the autocast context for ``fp32`` (none), ``bf16`` or ``fp16``.

    Raises:
        ParameterError: The name is unknown.
    """
    if precision not in _DTYPES:
        raise ParameterError(f"precision {precision!r}, expected {', '.join(_DTYPES)}")
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, _DTYPES[precision])


class LossWithTerms(Protocol):
    """A loss with its terms, such as :class:`training.losses.LossTerms`.

    Attributes:
        total: Scalar to differentiate.
        terms: Detached scalars by name, for the log.
    """

    total: Tensor
    terms: dict[str, Tensor]


class SecondPlayer(Protocol):
    """A second learner that changes the batches, such as a flow or a discriminator.

    Its state is part of the checkpoint. It must draw random numbers from torch's global generator,
    which the loop seeds at each step, so that a resumed run draws the same numbers.
    """

    def prepare(self, batch: Batch) -> Batch:
        """Changes a micro-batch, already on the device, before the model sees it."""
        ...

    def after_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Runs its own step after the model's.

        Args:
            model: The model, without the DDP wrapper.
            batch: The last micro-batch before :meth:`prepare`, on the device.

        Returns:
            Detached scalars for the log.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Returns tensors and plain values, everything that a resumed run needs."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`."""
        ...


def micro_batch_size(batch_size: int, processes: int, accumulate: int) -> int:
    """Returns the number of samples per forward pass.

    Raises:
        ParameterError: ``batch_size`` does not split evenly.
    """
    if accumulate < 1:
        raise ParameterError(f"accumulate must be at least 1, got {accumulate}")
    parts = processes * accumulate
    if batch_size < 1 or batch_size % parts:
        raise ParameterError(
            f"batch_size {batch_size} does not split evenly over {processes} processes x "
            f"{accumulate} micro-batches (accumulate)"
        )
    return batch_size // parts


def check_batch(
    network: nn.Module, config: Mapping[str, Any], distributed: Distributed, remedy: str = ""
) -> None:
    """Refuses batches of one image if a layer would normalise a single value per channel.

    After global pooling, a layer sees one value per image of its process's micro-batch.

    Args:
        network: The network, with its modules in their training modes.
        config: Configuration with ``batch_size``, ``crop`` and optionally ``accumulate``.
        distributed: The processes that share a batch.
        remedy: Alternative to a larger batch, for the message.

    Raises:
        ParameterError: There is such a layer, which the message names, or the batch does not split
            evenly.
    """
    accumulate, processes = config.get("accumulate", 1), distributed.world_size
    size = micro_batch_size(config["batch_size"], processes, accumulate)
    if size > 1:  # two values have a variance
        return
    layer = layer_without_variance(network, (size, 3, *config["crop"]))
    if layer is not None:
        shares = f"{processes} processes x {accumulate} micro-batches"
        least = 2 * processes * accumulate
        raise ParameterError(
            f"batch_size {config['batch_size']}: layer {layer!r} would normalise a single value a "
            f"channel in a batch of {size} ({shares} share it); use a batch_size of at least "
            f"{least}{remedy and ', ' + remedy}"
        )


def layer_without_variance(network: nn.Module, shape: tuple[int, ...]) -> str | None:
    """Finds a layer that cannot normalise its input, by running the network on meta tensors.

    Neither the network nor its statistics change.

    Args:
        network: The network.
        shape: Shape of its input, (N, 3, H, W).

    Returns:
        Path of the first such layer, or None if there is none or the network does not run on meta
        tensors.
    """
    entered: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, path=path: entered.append(path))
        for path, module in network.named_modules()
    ]
    state: dict[str, Tensor] = {
        name: tensor.to("meta")
        for name, tensor in (*network.named_parameters(), *network.named_buffers())
    }
    try:
        with torch.no_grad():
            torch.func.functional_call(network, state, (torch.empty(shape, device="meta"),))
    except ValueError as error:
        if str(error).startswith(NO_VARIANCE):
            return entered[-1]  # a layer is entered after the modules that contain it
    except RuntimeError:  # for example an operator without meta support
        return None
    finally:
        for hook in hooks:
            hook.remove()
    return None

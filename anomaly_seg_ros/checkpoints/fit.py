# SPDX-License-Identifier: Apache-2.0
"""Compares tensors with what a network expects, and loads them only if all fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn

from anomaly_seg_ros.errors import CheckpointError


@dataclass(frozen=True)
class Misfit:
    """Everything that keeps tensors from being loaded; falsy if they fit.

    Attributes:
        missing: Keys of the network that are not there.
        unexpected: Keys that the network does not have.
        misshaped: "key (shape) instead of (shape of the network)"; or the data type, where whole
            numbers would become weights.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshaped: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshaped)

    def also_unexpected(self, more: tuple[str, ...]) -> Misfit:
        """A copy with more unexpected keys."""
        return replace(self, unexpected=(*self.unexpected, *more))

    def __str__(self) -> str:
        """Counts, and the first few of each kind."""
        kinds = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "mis-shaped": self.misshaped,
        }
        return "; ".join(
            f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
            for kind, keys in kinds.items()
            if keys
        )


def compare(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Misfit:
    """Lists every difference of keys and shapes, and integers where weights belong.

    Args:
        expected: A network's state dict; tensors may be on the meta device.
        found: Tensors to load.
    """
    misshaped = []
    for key in sorted(expected.keys() & found.keys()):
        want, have = expected[key], found[key]
        if have.shape != want.shape:
            misshaped.append(f"{key} {tuple(have.shape)} instead of {tuple(want.shape)}")
        elif want.is_floating_point() and not have.is_floating_point():
            misshaped.append(f"{key} {dtype_name(have)} instead of {dtype_name(want)}")
    return Misfit(
        tuple(sorted(expected.keys() - found.keys())),
        tuple(sorted(found.keys() - expected.keys())),
        tuple(misshaped),
    )


def load_strictly(network: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Loads all keys or none.

    Args:
        network: Receives the tensors.
        state_dict: Tensors by key.
        source: File name for errors.

    Raises:
        CheckpointError: Lists missing, unexpected and mis-shaped keys.
    """
    misfit = compare(network.state_dict(), state_dict)
    if misfit:
        raise CheckpointError(f"{source} does not fit {type(network).__name__}: {misfit}")
    network.load_state_dict(state_dict, strict=True)


def overlap(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> float:
    """Share of all keys of both that agree in name and shape, 0 to 1."""
    both = expected.keys() & found.keys()
    same = sum(found[key].shape == expected[key].shape for key in both)
    return same / max(1, len(expected.keys() | found.keys()))


def not_finite(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Keys of the tensors that hold NaN or infinite values: the sign of a diverged training."""
    return tuple(
        key
        for key, tensor in tensors.items()
        if tensor.is_floating_point() and not bool(tensor.isfinite().all())
    )


def dtype_name(tensor: Tensor) -> str:
    """A tensor's data type without ``torch.``, such as ``float16``."""
    return str(tensor.dtype).removeprefix("torch.")

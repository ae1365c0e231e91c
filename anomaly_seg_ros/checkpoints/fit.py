"""Compares tensors with what a network wants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class Misfit:
    """Everything that keeps tensors from being loaded; falsy if they fit.

    Attributes:
        missing: Keys of the network that are not there.
        unexpected: Keys that the network has not.
        misshaped: "key (shape) instead of (shape of the network)"; or the data type, where whole
            numbers would become weights.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshaped: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshaped)

    def also_unexpected(self, more: tuple[str, ...]) -> Misfit:
        """The same with more that the network has not."""
        return replace(self, unexpected=(*self.unexpected, *more)) if more else self

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
    """Lists every difference of keys, shapes, and integers where weights belong.

    Args:
        expected: State dict of the network; tensors may be on the meta device.
        found: What is to be loaded.
    """
    misshaped = []
    for key in sorted(expected.keys() & found.keys()):
        want, have = expected[key], found[key]
        if have.shape != want.shape:
            misshaped.append(f"{key} {tuple(have.shape)} instead of {tuple(want.shape)}")
        elif want.is_floating_point() and not have.is_floating_point():
            misshaped.append(f"{key} {_dtype(have)} instead of {_dtype(want)}")
    return Misfit(
        tuple(sorted(expected.keys() - found.keys())),
        tuple(sorted(found.keys() - expected.keys())),
        tuple(misshaped),
    )


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


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

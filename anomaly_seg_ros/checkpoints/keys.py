# SPDX-License-Identifier: Apache-2.0
"""Names of tensors: wrappers' prefixes, leftovers of trainings, several networks in one file.

A whole set of a network's tensors may lie under ``student.``, ``module.segmentor.`` or any other
prefix, beside tensors of something else, and there may be several sets.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

COUNTER = ".num_batches_tracked"
# What training scripts register beside the network -> what it is. A name that ends in a dot begins
# keys, any other is a whole key.
LEFTOVERS = {
    "criterion.": "of the training loss",
    "criterion_aux.": "of the training loss",
    "loss.": "of the training loss",
    "multi_scale.": "smoothing kernels of SML, which are constants",
    # torch.optim.swa_utils.AveragedModel has it beside "module.", without that prefix.
    "n_averaged": "counter of an averaged model",
}
# Wrappers that put their name before every key. Under any other name, and beside keys of something
# else, a network is found by its own keys, see prefixes_before.
_PREFIXES = ("module.", "_orig_mod.", "branch1.", "model.", "network.", "net.")
# Wrappers of parts of a network put their name into the middle of keys.
_INNER = (
    *("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."),
    "_forward_module.",
)
# Parts of a prefix that mark copies of the trained network. Where a file holds the network and
# copies, the network is read, just as if they were state dicts of their own.
_COPIES = ("ema", "teacher", "averag", "momentum", "target", "swa", "old", "shadow")


def is_leftover(key: str, leftover: str) -> bool:
    """Whether a name of :data:`LEFTOVERS` stands for this key."""
    return key.startswith(leftover) if leftover.endswith(".") else key == leftover


def strip_prefixes(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Strips wrappers' names that begin every key, repeatedly.

    Returns:
        The tensors by shorter keys, and the prefixes, the outermost first.
    """
    stripped = []
    while prefix := _common_prefix(tensors):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
        stripped.append(prefix)
    return tensors, tuple(stripped)


def without_inner_wrappers(
    tensors: dict[str, Tensor],
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Strips the names that torch's wrappers put into the middle of keys.

    Returns:
        The tensors by shorter keys, and the names; unchanged if two keys became one.
    """
    found = [name for name in _INNER if any(f".{name}" in key for key in tensors)]
    shorter = {}
    for key, tensor in tensors.items():
        for name in found:
            key = key.replace(f".{name}", ".")
        shorter[key] = tensor
    if len(shorter) < len(tensors):
        return tensors, ()
    return shorter, tuple(found)


def prefixes_before(landmarks: Iterable[str], keys: Collection[str]) -> list[str]:
    """Every prefix under which all landmarks lie, "" included, in the order of the keys."""
    first, *others = landmarks
    found = [key.removesuffix(first) for key in keys if key.endswith(first)]
    return [
        prefix
        for prefix in found
        if (not prefix or prefix.endswith(".")) and all(prefix + key in keys for key in others)
    ]


def preferred(prefixes: Iterable[str]) -> str:
    """The set to read: originals before copies, then no prefix, then the first."""
    return min(prefixes, key=lambda prefix: (_is_copy(prefix), prefix != ""))


def _is_copy(prefix: str) -> bool:
    return any(part.startswith(_COPIES) or part.endswith("_ema") for part in prefix.split("."))


@dataclass(frozen=True)
class Branch:
    """What lies under one prefix, and what does not.

    Attributes:
        prefix: Ends in a dot, or is empty.
        tensors: Without the prefix; with the leftovers of training scripts, wherever they lie.
        others: Number of tensors by prefix of the other sets.
        outside: The rest of the file.
    """

    prefix: str
    tensors: dict[str, Tensor]
    others: dict[str, int]
    outside: dict[str, Tensor]

    def conflicts(self, expected: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Tensors outside of the branch that may be parameters of the network, with other values.

        Args:
            expected: The network's state dict.
        """
        return tuple(
            f"{key} (outside of '{self.prefix}'; --prefix {self.prefix} leaves it out)"
            for key, tensor in self.outside.items()
            if any(self._differs(own, tensor, expected) for own in _endings(key))
        )

    def _differs(self, own: str, tensor: Tensor, expected: Mapping[str, Tensor]) -> bool:
        if own not in expected or expected[own].shape != tensor.shape or not tensor.ndim:
            return False
        inside = self.tensors.get(own)
        return inside is None or not torch.equal(inside, tensor)

    def account(self) -> list[str]:
        """What is not read, one sentence each."""
        words = []
        if self.others:
            told = ", ".join(f"'{name}' ({count} tensors)" for name, count in self.others.items())
            words.append(f"'{self.prefix}' is read, and not {told}: --prefix chooses another")
        if self.outside:
            keys = list(self.outside)
            shown = ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "")
            words.append(
                f"left out, not under the network's prefix '{self.prefix}' "
                f"({len(keys)} tensors): {shown}"
            )
        return words


def branch(tensors: Mapping[str, Tensor], prefix: str, prefixes: Iterable[str]) -> Branch:
    """Takes one set of tensors out of a file.

    Args:
        tensors: The file's tensors.
        prefix: The prefix of the set to take.
        prefixes: The prefixes of all sets in the file.
    """
    # "ema.module." may stand beside "ema.": the longer one is tried first.
    others = sorted((other for other in prefixes if other != prefix), key=len, reverse=True)
    inside: dict[str, Tensor] = {}
    outside: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    for key, tensor in tensors.items():
        mine = key.startswith(prefix)
        other = next(
            (o for o in others if key.startswith(o) and (not mine or len(o) > len(prefix))), None
        )
        if other is not None:
            counts[other] = counts.get(other, 0) + 1
        elif mine:
            inside[key.removeprefix(prefix)] = tensor
        elif any(is_leftover(key, name) for name in LEFTOVERS):
            inside[key] = tensor
        else:
            outside[key] = tensor
    return Branch(prefix, inside, counts, outside)


def _endings(key: str) -> Iterable[str]:
    """The key, and its rests without the first parts."""
    parts = key.split(".")
    return (".".join(parts[start:]) for start in range(len(parts)))


def _common_prefix(tensors: Mapping[str, Tensor]) -> str | None:
    keys = [key for key in tensors if not any(is_leftover(key, name) for name in LEFTOVERS)]
    for prefix in _PREFIXES:
        if keys and all(key.startswith(prefix) for key in keys):
            return prefix
    return None

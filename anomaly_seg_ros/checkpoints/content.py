"""Finds the state dict among everything a training script saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from anomaly_seg_ros.io.safe_yaml_json import shown

# Names under which scripts save weights, the ones to prefer first.
_NAMES = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "module")
_TRAINING_STATE = ("optim", "sched", "lr_sched", "scaler", "amp", "rng")
# What a training script registers beside the network -> what it is. A name that ends in a dot is
# the start of keys, any other is a whole key.
LEFTOVERS = {
    "criterion.": "of the training loss",
    "criterion_aux.": "of the training loss",
    "loss.": "of the training loss",
    "multi_scale.": "smoothing kernels of SML, which are constants",
    # Of torch.optim.swa_utils.AveragedModel: it stands beside "module.", without that prefix.
    "n_averaged": "counter of an averaged model",
}
# Wrappers, which put their name before every key. Of any other name, and beside keys of something
# else, a network is found by what it consists of (prefixes.py).
_PREFIXES = ("module.", "_orig_mod.", "branch1.", "model.", "network.", "net.")
# Wrappers of parts of a network, which put their name into the middle of keys.
_INNER = (
    *("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."),
    "_forward_module.",
)
_LONGEST_TEXT = 200
_DEEPEST = 4


@dataclass
class Content:
    """A state dict and what lay around it.

    Attributes:
        tensors: By key, as they are in the file.
        place: Keys that lead to the state dict.
        record: Plain values beside the state dict, by dotted path: epoch, metrics, command.
        others: Other state dicts of the file, as (place, number of tensors).
        not_tensors: Entries of the state dict that are neither tensors nor plain values.
        has_optimizer: Whether the state of a training is in the file.
    """

    tensors: dict[str, Tensor]
    place: tuple[str, ...] = ()
    record: dict[str, Any] = field(default_factory=dict)
    others: list[tuple[tuple[str, ...], int]] = field(default_factory=list)
    not_tensors: list[str] = field(default_factory=list)
    has_optimizer: bool = False


def find_state_dict(content: Any, key: str | None = None) -> Content | None:
    """The weights in what a file holds, or None if there are none.

    Args:
        content: Of the file.
        key: Dotted place of the state dict; without it the top level is preferred if most tensors
            lie there, then the usual names, then the largest.
    """
    if not isinstance(content, Mapping):
        return None
    found = _state_dicts(content, ())
    chosen = _choose(found) if key is None else tuple(key.split("."))
    if chosen not in found:
        return None
    table = found[chosen]
    result = Content({k: v for k, v in table.items() if isinstance(v, Tensor)}, chosen)
    # What has far fewer tensors is a table beside the weights.
    result.others = [
        (place, count)
        for place, count in ((place, _count(other)) for place, other in found.items())
        if place != chosen and 2 * count > _count(table)
    ]
    _collect(content, (), set(found) - {chosen}, result, set())
    result.not_tensors = [
        str(key) if _is_plain(key) else shown(key)
        for key, value in table.items()
        if not isinstance(value, Tensor | Mapping) and not _is_plain(value)
    ]
    return result


def is_leftover(key: str, leftover: str) -> bool:
    """Whether a key is what a name of :data:`LEFTOVERS` stands for."""
    return key.startswith(leftover) if leftover.endswith(".") else key == leftover


def strip_prefixes(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Takes away the names of wrappers that stand before every key, repeatedly.

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
    """Takes away the names that torch's wrappers put into the middle of keys.

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


def _common_prefix(tensors: Mapping[str, Tensor]) -> str | None:
    keys = [key for key in tensors if not any(is_leftover(key, name) for name in LEFTOVERS)]
    for prefix in _PREFIXES:
        if keys and all(key.startswith(prefix) for key in keys):
            return prefix
    return None


def _state_dicts(
    table: Mapping, place: tuple[str, ...], seen: set[int] | None = None
) -> dict[tuple[str, ...], Mapping]:
    """Every mapping that holds tensors under text keys, outside of a training's state.

    A mapping that lies in several places is found at the first.
    """
    found = {}
    seen = set() if seen is None else seen
    seen.add(id(table))
    if _count(table):
        found[place] = table
    if len(place) < _DEEPEST:
        for key, value in table.items():
            is_new = isinstance(value, Mapping) and id(value) not in seen
            if is_new and isinstance(key, str) and not _is_training(key):
                found |= _state_dicts(value, (*place, key), seen)
    return found


def _count(table: Mapping) -> int:
    return sum(isinstance(k, str) and isinstance(v, Tensor) for k, v in table.items())


def _choose(found: Mapping[tuple[str, ...], Mapping]) -> tuple[str, ...] | None:
    """The place of the weights among several state dicts."""
    if not found:
        return None
    largest = max(found, key=lambda place: _count(found[place]))
    if () in found and 2 * _count(found[()]) > _count(found[largest]):
        return ()
    usual = [place for place in found if place and set(place) <= set(_NAMES)]
    return min(usual, key=lambda place: (len(place), _NAMES.index(place[-1])), default=largest)


def _is_training(key: str) -> bool:
    return key.lower().startswith(_TRAINING_STATE)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _collect(
    table: Mapping,
    path: tuple[str, ...],
    state_dicts: set[tuple[str, ...]],
    result: Content,
    seen: set[int],
) -> None:
    """Fills the record with the plain values of the file."""
    seen.add(id(table))
    for key, value in table.items():
        name = str(key) if _is_plain(key) else shown(key)
        here = (*path, name)
        if _is_training(name):
            result.has_optimizer |= isinstance(value, Mapping)
        elif isinstance(value, str):
            cut = value if len(value) <= _LONGEST_TEXT else f"{value[:_LONGEST_TEXT]}..."
            result.record[".".join(here)] = cut
        elif _is_plain(value):
            result.record[".".join(here)] = value
        elif not isinstance(value, Mapping) or id(value) in seen:
            continue
        elif here not in state_dicts and len(here) < _DEEPEST:
            _collect(value, here, state_dicts, result, seen)

# SPDX-License-Identifier: Apache-2.0
"""Reads any file of weights as plain float32 tensors and accounts for every change on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anomaly_seg_ros.checkpoints.fit import dtype_name
from anomaly_seg_ros.checkpoints.keys import strip_prefixes, without_inner_wrappers
from anomaly_seg_ros.checkpoints.metadata import METADATA_KEY
from anomaly_seg_ros.checkpoints.pickles import unpickle
from anomaly_seg_ros.checkpoints.tensor_files import Kind, kind_of, read_tensors
from anomaly_seg_ros.errors import CheckpointError, first_line
from anomaly_seg_ros.io.safe_yaml_json import short_repr

_EPOCH = ("epoch", "current_epoch", "last_epoch", "best_epoch")
_MIOU = ("mean_iu", "mean_iou", "miou", "best_miou", "best_mean_iu", "best_iou", "val_miou")
_EXACT = (torch.float16, torch.bfloat16)
# Names under which scripts save weights, in order of preference.
_NAMES = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "module")
_TRAINING_STATE = ("optim", "sched", "lr_sched", "scaler", "amp", "rng")
_LONGEST_TEXT = 200
_DEEPEST = 4


@dataclass(frozen=True)
class Checkpoint:
    """What a file of weights holds.

    Attributes:
        path: The file.
        container: The file's format, for people.
        tensors: Tensors by key without wrappers' prefixes; floating point as float32.
        header: The texts of a safetensors header.
        place: Keys in the file that lead to the state dict.
        prefixes: Prefixes stripped from every key, the outermost first.
        record: Plain values that were saved beside the weights, by dotted path.
        dtypes: Number of tensors by data type in the file, such as ``float16``.
        has_optimizer: The file holds a training's state as well.
        changes: What the tensors lost or gained on the way, one sentence each.
    """

    path: Path
    container: str
    tensors: dict[str, Tensor]
    header: dict[str, str] = field(default_factory=dict)
    place: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    record: dict[str, Any] = field(default_factory=dict)
    dtypes: dict[str, int] = field(default_factory=dict)
    has_optimizer: bool = False
    changes: tuple[str, ...] = ()

    @property
    def epoch(self) -> int | None:
        """The epoch that was recorded with the weights."""
        return self._recorded(_EPOCH)

    @property
    def mean_iou(self) -> float | None:
        """The mIoU that was recorded with the weights, on whatever scale and data that was."""
        return self._recorded(_MIOU)

    def _recorded(self, names: tuple[str, ...]) -> Any:
        by_name = {key.rsplit(".", 1)[-1].lower(): value for key, value in self.record.items()}
        values = (by_name[name] for name in names if name in by_name)
        return next((v for v in values if isinstance(v, int | float)), None)


def read_checkpoint(path: Path, key: str | None = None, prefix: str | None = None) -> Checkpoint:
    """Reads any file of weights, whatever its name ends in; nothing pickled in it is run.

    Args:
        path: Safetensors, or what ``torch.save`` wrote: a state dict, bare or nested, or a whole
            training checkpoint.
        key: Dotted place of the state dict in the file, such as ``ema``; None looks for it.
        prefix: Takes only the keys that begin so, such as ``student.``; None takes all.

    Raises:
        CheckpointError: Unreadable, unsafe, or without tensors (at the given key).
    """
    if kind_of(path) is Kind.SAFETENSORS:
        tensors, header = read_tensors(path)
        content, container = None if key else Content(tensors), "safetensors"
    else:
        raw, container = unpickle(path)
        header = {}
        content = find_state_dict(raw, key)
    if content is None or not content.tensors:
        where = "in it" if key is None else f"at {key!r}"
        raise CheckpointError(f"{path}: no weights {where}: a state dict of tensors was expected")
    changes = []
    for place, count in content.others:
        chosen = ".".join(content.place) or "the top level"
        changes.append(f"{'.'.join(place)} ({count} tensors) is not read, {chosen} is")
    if content.not_tensors:
        changes.append(f"no tensors, left out: {_some(content.not_tensors)}")
    plain = content.tensors
    prefixes: tuple[str, ...] = ()
    if METADATA_KEY not in header:  # files of this package have the network's own keys
        if prefix is not None:
            plain, outer, change = _under(plain, prefix, path)
            changes += change
        plain, prefixes = strip_prefixes(plain)
        if prefix is not None:
            prefixes = (*outer, *prefixes)
        plain, wrappers = without_inner_wrappers(plain)
        if wrappers:
            changes.append(f"taken out of the middle of keys, a wrapper's: {', '.join(wrappers)}")
    elif prefix is not None:
        raise CheckpointError(f"{path}: a file of this package, whose keys have no prefix")
    try:
        converted = {key: _to_float32(tensor) for key, tensor in plain.items()}
    except NotImplementedError as error:
        types = sorted({dtype_name(tensor) for tensor in plain.values()})
        raise CheckpointError(
            f"{path}: unsupported: torch cannot convert all of its types ({', '.join(types)}); "
            "save it as float32 or float16"
        ) from error
    except (RuntimeError, MemoryError) as error:
        raise CheckpointError(f"{path}: unreadable tensors: {first_line(error)}") from error
    changes += _conversions(plain)
    return Checkpoint(
        path=path,
        container=container,
        tensors=converted,
        header=header,
        place=content.place,
        prefixes=prefixes,
        record=content.record,
        dtypes=dict(Counter(dtype_name(tensor) for tensor in plain.values())),
        has_optimizer=content.has_optimizer,
        changes=tuple(changes),
    )


@dataclass
class Content:
    """A state dict and what lay around it.

    Attributes:
        tensors: Tensors by key, as in the file.
        place: Keys that lead to the state dict.
        record: Plain values beside the state dict, by dotted path: epoch, metrics, command.
        others: Other state dicts of the file, as (place, number of tensors).
        not_tensors: Entries of the state dict that are neither tensors nor plain values.
        has_optimizer: The file holds a training's state as well.
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
        content: What the file holds.
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
    # A mapping with far fewer tensors is a table beside the weights.
    result.others = [
        (place, count)
        for place, count in ((place, _count(other)) for place, other in found.items())
        if place != chosen and 2 * count > _count(table)
    ]
    _collect(content, (), set(found) - {chosen}, result, set())
    result.not_tensors = [
        str(key) if _is_plain(key) else short_repr(key)
        for key, value in table.items()
        if not isinstance(value, Tensor | Mapping) and not _is_plain(value)
    ]
    return result


def _under(
    tensors: dict[str, Tensor], prefix: str, path: Path
) -> tuple[dict[str, Tensor], tuple[str, ...], list[str]]:
    """The tensors under a prefix, which may follow wrappers' names that all keys share.

    Returns:
        The tensors without it; the prefixes stripped from their keys; and what is left out, in
        words.

    Raises:
        CheckpointError: There are none.
    """
    prefix = prefix if prefix.endswith(".") else f"{prefix}."
    for shared, taken in ((tensors, ()), strip_prefixes(tensors)):
        inside = {k.removeprefix(prefix): v for k, v in shared.items() if k.startswith(prefix)}
        outside = [key for key in shared if not key.startswith(prefix)]
        if inside:
            words = [f"left out, not under '{prefix}' ({len(outside)} tensors): {_some(outside)}"]
            return inside, (*taken, prefix), words if outside else []
    begin = list(dict.fromkeys(key.split(".")[0] + "." for key in tensors))
    raise CheckpointError(
        f"{path}: no tensor under the prefix '{prefix}'; its keys begin with {_some(begin, 8)}"
    )


def _to_float32(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    if tensor.is_quantized:
        return tensor.dequantize()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    return tensor.float() if tensor.is_floating_point() else tensor


def _conversions(tensors: dict[str, Tensor]) -> list[str]:
    """Says which tensors change their data type; only widening is exact."""
    changes = []
    by_dtype: dict[torch.dtype, list[str]] = {}
    for key, tensor in tensors.items():
        by_dtype.setdefault(tensor.dtype, []).append(key)
    for dtype, keys in by_dtype.items():
        name = dtype_name(tensors[keys[0]])
        if tensors[keys[0]].is_quantized:
            changes.append(f"{len(keys)} {name} tensors were dequantized to float32")
        elif dtype in _EXACT:
            changes.append(f"{len(keys)} {name} tensors became float32, exactly")
        elif dtype.is_floating_point and dtype != torch.float32:
            changes.append(f"{len(keys)} {name} tensors were converted to float32")
    return changes


def _some(names: list[str], shown: int = 3) -> str:
    return ", ".join(names[:shown]) + (f", ... ({len(names)})" if len(names) > shown else "")


def _state_dicts(
    table: Mapping, place: tuple[str, ...], seen: set[int] | None = None
) -> dict[tuple[str, ...], Mapping]:
    """Every mapping that holds tensors under text keys, outside of a training's state.

    A mapping that occurs in several places is found at the first.
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
        name = str(key) if _is_plain(key) else short_repr(key)
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

# SPDX-License-Identifier: Apache-2.0
"""Says which network a file's tensors belong to, and fits them to it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from anomaly_seg_ros.checkpoints.fit import Misfit, compare, overlap
from anomaly_seg_ros.checkpoints.formats import FORMATS
from anomaly_seg_ros.checkpoints.formats.base import CheckpointFormat
from anomaly_seg_ros.checkpoints.keys import COUNTER, LEFTOVERS, branch, is_leftover, preferred
from anomaly_seg_ros.checkpoints.metadata import METADATA_KEY, ModelMetadata
from anomaly_seg_ros.checkpoints.reading import Checkpoint
from anomaly_seg_ros.contract import SegmentationNetwork
from anomaly_seg_ros.errors import CheckpointError
from anomaly_seg_ros.models.registry import build_network
from anomaly_seg_ros.models.wrapped import WrappedNetwork
from anomaly_seg_ros.taxonomy import Taxonomy


@dataclass(frozen=True)
class Recognised:
    """A file as one of our networks.

    Attributes:
        path: The file.
        release: Whose weights these are or seem to be.
        metadata: Describes the network.
        network: Without weights: on the meta device, so that a file can be compared with a
            network of any size before memory is taken for it; or where its builder put it.
        tensors: The network's state dict from the file.
        misfit: What does not fit; falsy if all does.
        remarks: What was concluded rather than read.
        changes: What the tensors lost or gained on the way from the file.
        prefix: The prefix of the network's tensors in the checkpoint, if others lie beside them.
    """

    path: Path
    release: str
    metadata: ModelMetadata
    network: SegmentationNetwork
    tensors: dict[str, Tensor]
    misfit: Misfit
    remarks: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    prefix: str = ""

    def why_not(self) -> str:
        """What does not fit, with the conclusions that may be the reason; one line."""
        concluded = self.remarks if self.misfit.misshaped else ()
        return "; ".join([str(self.misfit), *concluded])

    def load(self) -> SegmentationNetwork:
        """The network with the file's weights, in eval mode on the CPU.

        Raises:
            CheckpointError: A missing, unexpected or mis-shaped tensor.
        """
        network = self.network
        if self.misfit:
            wanted = type(network).__name__
            raise CheckpointError(f"{self.path} does not fit {wanted}: {self.why_not()}")
        if next(network.parameters()).is_meta:
            if isinstance(network, WrappedNetwork):
                # Foreign networks may keep tensors outside of their state dict.
                network = build_network(self.metadata.architecture, self.metadata.arguments)
            else:
                network.to_empty(device="cpu")
        network.load_state_dict(self.tensors, strict=True)
        return network.eval()


def recognise(
    checkpoint: Checkpoint, format_name: str | None = None, taxonomy: Taxonomy | None = None
) -> Recognised:
    """Finds the network of a checkpoint and compares every key and shape with it.

    The network may lie under any prefix. Tensors outside of it are left out and named, except
    those that may be parameters of the network as well, which are a misfit. Of several sets one
    is chosen, see :func:`~anomaly_seg_ros.checkpoints.keys.preferred`.

    Args:
        checkpoint: From any origin. A file of this package says itself what it is.
        format_name: Key of :data:`FORMATS` to compare with, whatever the file seems to be.
        taxonomy: The classes, where neither the file nor the format knows them.

    Raises:
        CheckpointError: No format matches, several do, or the metadata cannot be read; names the
            nearest format and what is missing for it.
    """
    if format_name is not None:
        if format_name not in FORMATS:
            raise CheckpointError(f"unknown layout {format_name!r}, known: {', '.join(FORMATS)}")
        prefixes = FORMATS[format_name].prefixes(checkpoint) or [""]
        chosen = preferred(prefixes)
        return _as_format(checkpoint, FORMATS[format_name], taxonomy, chosen, prefixes)
    if METADATA_KEY in checkpoint.header:
        return _own(checkpoint, taxonomy)
    found: dict[str, list[CheckpointFormat]] = {}
    for candidate in FORMATS.values():
        for prefix in candidate.prefixes(checkpoint):
            found.setdefault(prefix, []).append(candidate)
    if not found:
        _refuse(checkpoint)
    chosen = preferred(found)
    candidates = [
        _as_format(checkpoint, candidate, taxonomy, chosen, found) for candidate in found[chosen]
    ]
    if len(candidates) > 1:
        fitting = [candidate for candidate in candidates if not candidate.misfit]
        candidates = fitting or candidates
    if len(candidates) > 1:
        raise CheckpointError(
            f"{checkpoint.path}: ambiguous, it has the keys of "
            f"{' and of '.join(c.metadata.architecture for c in candidates)}"
        )
    return candidates[0]


def nearest(checkpoint: Checkpoint) -> Recognised:
    """The file as the format with the largest share of equal keys and shapes."""
    return max(
        (_as_format(checkpoint, candidate, None) for candidate in FORMATS.values()),
        key=lambda found: overlap(found.network.state_dict(), checkpoint.tensors),
    )


def adapt(
    tensors: dict[str, Tensor], expected: dict[str, Tensor], prefix: str = ""
) -> tuple[dict[str, Tensor], list[str]]:
    """Drops the leftovers of training scripts and adds the counters that old files lack.

    Args:
        tensors: From a file.
        expected: The network's state dict.
        prefix: Begins all keys.

    Returns:
        The tensors, and what was changed, one sentence each. All else is left as it is.
    """
    changes = []
    for leftover, what in LEFTOVERS.items():
        extra = [k for k in tensors if is_leftover(k, prefix + leftover) and k not in expected]
        if extra:
            tensors = {key: value for key, value in tensors.items() if key not in extra}
            changes.append(f"dropped, no part of the network ({what}): {', '.join(extra)}")
    # Files of torch before 0.4.1 have no batch counters.
    absent = [
        key
        for key in expected
        if key.endswith(COUNTER)
        and key not in tensors
        and f"{key.removesuffix(COUNTER)}.running_mean" in tensors
    ]
    if absent:
        tensors = {**tensors, **{key: torch.zeros((), dtype=torch.int64) for key in absent}}
        changes.append(
            f"{len(absent)} num_batches_tracked are not in the file (torch before 0.4.1) and were "
            "set to 0; inference does not use them"
        )
    return tensors, changes


def _blank_network(metadata: ModelMetadata) -> SegmentationNetwork:
    """The network on the meta device: keys and shapes without memory."""
    with torch.device("meta"):
        return build_network(metadata.architecture, metadata.arguments)


def _own(checkpoint: Checkpoint, taxonomy: Taxonomy | None) -> Recognised:
    metadata = ModelMetadata.from_json(checkpoint.header[METADATA_KEY], str(checkpoint.path))
    if taxonomy is not None:
        if len(taxonomy.classes) != len(metadata.classes):
            raise CheckpointError(
                f"{checkpoint.path}: has {len(metadata.classes)} classes, "
                f"{len(taxonomy.classes)} were given"
            )
        metadata = replace(metadata, classes=taxonomy.classes, palette=taxonomy.palette)
    try:
        network = _blank_network(metadata)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error
    return Recognised(
        checkpoint.path,
        "this package",
        metadata,
        network,
        checkpoint.tensors,
        compare(network.state_dict(), checkpoint.tensors),
        changes=checkpoint.changes,
    )


def _as_format(
    checkpoint: Checkpoint,
    checkpoint_format: CheckpointFormat,
    taxonomy: Taxonomy | None,
    prefix: str = "",
    prefixes: Collection[str] = (),
) -> Recognised:
    part = branch(checkpoint.tensors, prefix, prefixes)
    parts = (f"{name}." for name in prefix.split(".")[:-1])
    description = checkpoint_format.describe(
        replace(checkpoint, tensors=part.tensors, prefixes=(*checkpoint.prefixes, *parts)),
        taxonomy,
    )
    network = _blank_network(description.metadata)
    expected = network.state_dict()
    tensors, changes = adapt(part.tensors, expected)
    return Recognised(
        checkpoint.path,
        description.release,
        description.metadata,
        network,
        tensors,
        compare(expected, tensors).also_unexpected(part.conflicts(expected)),
        description.remarks,
        (*checkpoint.changes, *part.account(), *changes),
        prefix,
    )


def _refuse(checkpoint: Checkpoint) -> NoReturn:
    """Says what is known and what the nearest format lacks."""
    keys = list(checkpoint.tensors)
    found = nearest(checkpoint)
    raise CheckpointError(
        f"{checkpoint.path}: unknown layout: {len(keys)} tensors ({', '.join(keys[:3])}"
        f"{', ...' if len(keys) > 3 else ''}). Known: safetensors with this package's metadata; "
        f"{'; '.join(known.title for known in FORMATS.values())}. "
        f"Nearest is {found.metadata.architecture}: {found.misfit}. "
        "A network of another package: convert_model --wrap, see docs/models.md"
    )

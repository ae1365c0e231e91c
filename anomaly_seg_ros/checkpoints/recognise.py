"""Says which network a file's tensors belong to, and brings them into its shape."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import NoReturn

import torch
from torch import Tensor, nn

from anomaly_seg_ros.checkpoints.checkpoint_file import Checkpoint
from anomaly_seg_ros.checkpoints.class_labels import Labels
from anomaly_seg_ros.checkpoints.content import LEFTOVERS, is_leftover
from anomaly_seg_ros.checkpoints.fit import Misfit, compare, overlap
from anomaly_seg_ros.checkpoints.formats.base import Layout
from anomaly_seg_ros.checkpoints.formats.deeplab_lite import DEEPLAB_LITE
from anomaly_seg_ros.checkpoints.formats.erfnet import ERFNET
from anomaly_seg_ros.checkpoints.formats.ladder_densenet121 import LADDER_DENSENET121
from anomaly_seg_ros.checkpoints.formats.resnet101 import RESNET101
from anomaly_seg_ros.checkpoints.formats.wide_resnet38 import WIDE_RESNET38
from anomaly_seg_ros.checkpoints.metadata import METADATA_KEY, ModelMetadata
from anomaly_seg_ros.checkpoints.prefixes import branch, preferred
from anomaly_seg_ros.errors import CheckpointError
from anomaly_seg_ros.models.registry import build_network

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (WIDE_RESNET38, RESNET101, LADDER_DENSENET121, ERFNET, DEEPLAB_LITE)
}
COUNTER = ".num_batches_tracked"


@dataclass(frozen=True)
class Recognised:
    """A file as one of our networks.

    Attributes:
        release: Whose weights these are or seem to be.
        metadata: Of the network.
        tensors: What is to be loaded into it.
        misfit: What does not fit; falsy if all does.
        prefix: Under which its tensors lie in the checkpoint, beside others.
        remarks: What was concluded rather than read.
        changes: What the tensors lost or gained on the way from the file.
    """

    release: str
    metadata: ModelMetadata
    tensors: dict[str, Tensor]
    misfit: Misfit
    remarks: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    prefix: str = ""

    def why_not(self) -> str:
        """What does not fit, with what was concluded where that may be why; one line."""
        concluded = self.remarks if self.misfit.misshaped else ()
        return "; ".join([str(self.misfit), *concluded])


def recognise(
    checkpoint: Checkpoint, layout: str | None = None, labels: Labels | None = None
) -> Recognised:
    """Finds the network of a checkpoint and compares every key and shape with it.

    The network may lie under any prefix. What does not is left out, and named; unless it may be a
    parameter of the network, too, which is a misfit. Of several sets one is chosen, see
    :func:`~anomaly_seg_ros.checkpoints.prefixes.preferred`.

    Args:
        checkpoint: Of any origin. A file of this package says itself what it is.
        layout: Key of :data:`LAYOUTS` to compare with, whatever the file seems to be.
        labels: The classes, where neither the file nor the layout knows them.

    Raises:
        CheckpointError: No layout matches, several do, or the metadata cannot be read; names the
            nearest layout and what is missing for it.
    """
    if layout is not None and layout not in LAYOUTS:
        raise CheckpointError(f"unknown layout {layout!r}, known: {', '.join(LAYOUTS)}")
    if layout is not None:
        prefixes = LAYOUTS[layout].prefixes(checkpoint) or [""]
        return _as_layout(checkpoint, LAYOUTS[layout], labels, preferred(prefixes), prefixes)
    if METADATA_KEY in checkpoint.header:
        return _own(checkpoint, labels)
    found: dict[str, list[Layout]] = {}
    for candidate in LAYOUTS.values():
        for prefix in candidate.prefixes(checkpoint):
            found.setdefault(prefix, []).append(candidate)
    if not found:
        _refuse(checkpoint)
    chosen = preferred(found)
    candidates = [
        _as_layout(checkpoint, candidate, labels, chosen, found) for candidate in found[chosen]
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


def nearest(checkpoint: Checkpoint) -> tuple[str, Recognised]:
    """The layout with the largest share of equal keys and shapes, and the file compared with it.

    Returns:
        Key of :data:`LAYOUTS`; and the comparison.
    """

    def share(layout: Layout) -> float:
        network = blank_network(layout.describe(checkpoint, None).metadata)
        return overlap(network.state_dict(), checkpoint.tensors)

    best = max(LAYOUTS.values(), key=share)
    return best.name, _as_layout(checkpoint, best, None)


def blank_network(metadata: ModelMetadata) -> nn.Module:
    """The network on the meta device: keys and shapes without memory.

    Raises:
        CheckpointError: It cannot be built.
    """
    with torch.device("meta"):
        return build_network(metadata.architecture, metadata.arguments)


def _own(checkpoint: Checkpoint, labels: Labels | None) -> Recognised:
    metadata = ModelMetadata.from_json(checkpoint.header[METADATA_KEY], str(checkpoint.path))
    if labels is not None:
        if len(labels.classes) != len(metadata.classes):
            raise CheckpointError(
                f"{checkpoint.path}: has {len(metadata.classes)} classes, "
                f"{len(labels.classes)} were given"
            )
        metadata = replace(metadata, classes=labels.classes, palette=labels.palette)
    misfit = compare(blank_network(metadata).state_dict(), checkpoint.tensors)
    return Recognised(
        "this package", metadata, checkpoint.tensors, misfit, changes=checkpoint.changes
    )


def _as_layout(
    checkpoint: Checkpoint,
    layout: Layout,
    labels: Labels | None,
    prefix: str = "",
    prefixes: Collection[str] = (),
) -> Recognised:
    part = branch(checkpoint.tensors, prefix, prefixes)
    parts = (f"{name}." for name in prefix.split(".")[:-1])
    description = layout.describe(
        replace(checkpoint, tensors=part.tensors, prefixes=(*checkpoint.prefixes, *parts)), labels
    )
    expected = blank_network(description.metadata).state_dict()
    tensors, changes = adapt(part.tensors, expected)
    return Recognised(
        description.release,
        description.metadata,
        tensors,
        compare(expected, tensors).also_unexpected(part.conflicts(expected)),
        description.remarks,
        (*checkpoint.changes, *part.account(), *changes),
        prefix,
    )


def adapt(
    tensors: dict[str, Tensor], expected: dict[str, Tensor], prefix: str = ""
) -> tuple[dict[str, Tensor], list[str]]:
    """Drops the leftovers of training scripts and adds the counters that old files lack.

    Args:
        tensors: From a file.
        expected: State dict of the network.
        prefix: Of all keys.

    Returns:
        The tensors, and what was changed, one sentence each. All else is left as it is.
    """
    kept, changes = _without_leftovers(tensors, expected, prefix)
    complete, more = _with_counters(kept, expected)
    return complete, [*changes, *more]


def _without_leftovers(
    tensors: dict[str, Tensor], expected: dict[str, Tensor], prefix: str
) -> tuple[dict[str, Tensor], list[str]]:
    changes = []
    for leftover, what in LEFTOVERS.items():
        extra = [k for k in tensors if is_leftover(k, prefix + leftover) and k not in expected]
        if extra:
            tensors = {key: value for key, value in tensors.items() if key not in extra}
            changes.append(f"dropped, no part of the network ({what}): {', '.join(extra)}")
    return tensors, changes


def _with_counters(
    tensors: dict[str, Tensor], expected: dict[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    # Files of torch before 0.4.1 have no batch counters.
    absent = [
        key
        for key in expected
        if key.endswith(COUNTER)
        and key not in tensors
        and f"{key.removesuffix(COUNTER)}.running_mean" in tensors
    ]
    if not absent:
        return tensors, []
    zeros = {key: torch.zeros((), dtype=torch.int64) for key in absent}
    return {**tensors, **zeros}, [
        f"{len(absent)} num_batches_tracked are not in the file (torch before 0.4.1) and were "
        "set to 0; inference does not use them"
    ]


def _refuse(checkpoint: Checkpoint) -> NoReturn:
    """Says what is known and what the nearest layout lacks."""
    keys = list(checkpoint.tensors)
    name, found = nearest(checkpoint)
    raise CheckpointError(
        f"{checkpoint.path}: unknown layout: {len(keys)} tensors ({', '.join(keys[:3])}"
        f"{', ...' if len(keys) > 3 else ''}). Known: safetensors with this package's metadata; "
        f"{'; '.join(layout.title for layout in LAYOUTS.values())}. "
        f"Nearest is {name}: {found.misfit}. "
        "A network of another package: convert_model --wrap, see docs/models.md"
    )

# SPDX-License-Identifier: Apache-2.0
"""What the description of a public checkpoint format consists of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from anomaly_seg_ros.checkpoints.keys import prefixes_before
from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.checkpoints.reading import Checkpoint
from anomaly_seg_ros.errors import CheckpointError
from anomaly_seg_ros.models.input_scaling import InputScaling
from anomaly_seg_ros.system.resources import weights_dir
from anomaly_seg_ros.taxonomy import Taxonomy, known_taxonomy, numbered_taxonomy

# (height, width): full size, as the releases were evaluated.
CITYSCAPES_SIZE = (1024, 2048)
# 720 x 1280, rounded up to the multiple of 32 that the network needs.
STREET_HAZARDS_SIZE = (736, 1280)


@dataclass(frozen=True)
class Description:
    """What a file of a known format is.

    Attributes:
        release: Whose weights these seem to be, for people.
        metadata: Describes the network that they belong to.
        remarks: What was concluded rather than read, one sentence each.
    """

    release: str
    metadata: ModelMetadata
    remarks: tuple[str, ...] = ()


# Called with a checkpoint and the classes that a user stated, if any.
Describe = Callable[[Checkpoint, Taxonomy | None], Description]


@dataclass(frozen=True)
class CheckpointFormat:
    """A set of keys and shapes under which weights are published.

    Attributes:
        name: Choice of ``inspect_model --as``.
        title: Network and releases, for people.
        landmarks: Keys that no other format has together.
        describe: Derives arguments and metadata from the shapes. A missing key counts as the
            release's usual one, so that damaged files can be compared.
    """

    name: str
    title: str
    landmarks: tuple[str, ...]
    describe: Describe

    def prefixes(self, checkpoint: Checkpoint) -> list[str]:
        """Every prefix under which all landmarks lie: wrappers' names, or an empty text."""
        return prefixes_before(self.landmarks, checkpoint.tensors)


def width(checkpoint: Checkpoint, key: str, default: int) -> int:
    """Output channels of the layer whose weight or bias this is (its first dimension)."""
    tensor = checkpoint.tensors.get(key)
    return tensor.shape[0] if tensor is not None and tensor.ndim else default


def outlier_head_of(
    checkpoint: Checkpoint, scaling: InputScaling, name: str = "outlier_head"
) -> bool | dict[str, Any]:
    """The argument ``outlier_head`` of the network whose head lies under this name.

    Args:
        checkpoint: The network's tensors.
        scaling: Its input scaling.
        name: Of the head.

    Returns:
        Whether there is a head, or the options of an outlier branch. The share ``context_scale``
        is in no tensor: it is the default.
    """
    tensors = checkpoint.tensors
    last = f"{name}.conv.weight"
    if last not in tensors or f"{name}.inputs.0.0.weight" not in tensors:
        return last in tensors
    blocks = {key.split(".")[2] for key in tensors if key.startswith(f"{name}.blocks.")}
    weight = tensors[last]
    options = {"width": weight.shape[1] if weight.ndim > 1 else 0, "blocks": len(blocks)}
    if f"{name}.context.stem.0.0.weight" not in tensors:
        return options
    is_lite2 = f"{name}.context.stages.1.2.depthwise.0.weight" in tensors
    trunk = {"context": "lite2" if is_lite2 else "lite0"}
    return {**options, **trunk, "mean": list(scaling.mean), "std": list(scaling.std)}


def has_values(checkpoint: Checkpoint, key: str, sha256: str) -> bool:
    """Whether a tensor has exactly the values of a public checkpoint, by SHA-256 of its bytes."""
    tensor = checkpoint.tensors.get(key)
    return tensor is not None and hashlib.sha256(tensor.numpy().tobytes()).hexdigest() == sha256


def calibrated_metadata(name: str) -> ModelMetadata:
    """The shipped metadata of a public checkpoint, whose weights are not shipped."""
    source = weights_dir() / f"{name}.json"
    return ModelMetadata.from_json(source.read_text(encoding="utf-8"), str(source))


def metadata_of(
    name: str,
    architecture: str,
    taxonomy: Taxonomy,
    scaling: InputScaling,
    inference_size: tuple[int, int],
    outlier_head: bool | dict[str, Any],
    **arguments: object,
) -> ModelMetadata:
    """Metadata of a public network.

    Args:
        name: The model's name.
        architecture: Key of the network registry.
        taxonomy: Its classes.
        scaling: Its input scaling.
        inference_size: (height, width).
        outlier_head: See :func:`outlier_head_of`; decides on the default score.
        arguments: The architecture's other arguments.
    """
    return ModelMetadata(
        name=name,
        architecture=architecture,
        arguments={
            "num_classes": len(taxonomy.classes),
            "outlier_head": outlier_head,
            **arguments,
        },
        classes=taxonomy.classes,
        palette=taxonomy.palette,
        mean=scaling.mean,
        std=scaling.std,
        inference_size=inference_size,
        default_score="dense_hybrid" if outlier_head else "energy",
    )


def classes_of(
    checkpoint: Checkpoint, outputs: int, stated: Taxonomy | None
) -> tuple[Taxonomy, bool, tuple[str, ...]]:
    """Which classes the outputs of a classifier are.

    PEBAL's releases have one output more than classes: its abstention class.

    Args:
        checkpoint: Named in errors.
        outputs: Channels of the last layer.
        stated: The classes that the user gave, if any.

    Returns:
        The classes, whether there is an abstention class behind them, and remarks.

    Raises:
        CheckpointError: The outputs cannot be the stated classes.
    """
    if stated is not None:
        if len(stated.classes) not in (outputs, outputs - 1):
            raise CheckpointError(
                f"{checkpoint.path}: its last layer has {outputs} outputs, which cannot be the "
                f"{len(stated.classes)} classes that were given"
            )
        return stated, len(stated.classes) < outputs, numbered_remarks(stated)
    if taxonomy := known_taxonomy(outputs):
        return taxonomy, False, ()
    if taxonomy := known_taxonomy(outputs - 1):
        remark = (
            f"{outputs} outputs are read as {outputs - 1} classes and PEBAL's abstention class, "
            f"a guess; {how_to_overrule(outputs)}"
        )
        return taxonomy, True, (remark,)
    taxonomy = numbered_taxonomy(outputs)
    return taxonomy, False, numbered_remarks(taxonomy)


def how_to_overrule(outputs: int) -> str:
    """What to say where a guess takes the last output for something else than a class."""
    return (
        f"if they are {outputs} classes: convert_model --num-classes {outputs}, "
        "or --classes TAXONOMY.yaml"
    )


def numbered_remarks(taxonomy: Taxonomy) -> tuple[str, ...]:
    """A remark if the names of the classes are mere numbers."""
    if not taxonomy.guessed:
        return ()
    return (
        f"nothing says what its {len(taxonomy.classes)} classes are; they are numbered. "
        "Name them: convert_model --classes TAXONOMY.yaml",
    )

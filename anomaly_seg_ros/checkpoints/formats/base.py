"""What a description of a public layout consists of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from anomaly_seg_ros.checkpoints.checkpoint_file import Checkpoint
from anomaly_seg_ros.checkpoints.class_labels import Labels, known_labels, numbered_labels
from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.checkpoints.prefixes import prefixes_before
from anomaly_seg_ros.errors import CheckpointError
from anomaly_seg_ros.models.input_scaling import InputScaling

# (height, width): full size, as the releases were evaluated.
CITYSCAPES_SIZE = (1024, 2048)
# 720 x 1280, rounded up to the multiple of 32 that the network needs.
STREET_HAZARDS_SIZE = (736, 1280)


@dataclass(frozen=True)
class Description:
    """What a file of a known layout is.

    Attributes:
        release: Whose weights these seem to be, for people.
        metadata: Of the network that they belong to.
        remarks: What was concluded rather than read, one sentence each.
    """

    release: str
    metadata: ModelMetadata
    remarks: tuple[str, ...] = ()


# From a checkpoint and the classes that a user stated, if any.
Describe = Callable[[Checkpoint, Labels | None], Description]


@dataclass(frozen=True)
class Layout:
    """A set of keys and shapes under which weights are published.

    Attributes:
        name: For ``inspect_model --as``.
        title: For people: network and releases.
        landmarks: Keys that no other layout has together.
        describe: Derives arguments and metadata from the shapes; a key that is not there counts
            as the release's usual one, so that damaged files can be compared.
    """

    name: str
    title: str
    landmarks: tuple[str, ...]
    describe: Describe

    def prefixes(self, checkpoint: Checkpoint) -> list[str]:
        """Under which all landmarks are there: wrappers' names, or an empty text."""
        return prefixes_before(self.landmarks, checkpoint.tensors)


def width(checkpoint: Checkpoint, key: str, default: int) -> int:
    """Output channels of the layer whose weight or bias this is (its first dimension)."""
    tensor = checkpoint.tensors.get(key)
    return tensor.shape[0] if tensor is not None and tensor.ndim else default


def metadata_of(
    name: str,
    architecture: str,
    labels: Labels,
    scaling: InputScaling,
    inference_size: tuple[int, int],
    outlier_head: bool,
    **arguments: object,
) -> ModelMetadata:
    """Metadata of a public network.

    Args:
        name: Of the model.
        architecture: Of the network, in the registry.
        labels: Its classes.
        scaling: Of its input.
        inference_size: (height, width).
        outlier_head: Whether it has one; decides on the score.
        arguments: What else the architecture is built with.
    """
    return ModelMetadata(
        name=name,
        architecture=architecture,
        arguments={
            "num_classes": len(labels.classes),
            "outlier_head": outlier_head,
            **arguments,
        },
        classes=labels.classes,
        palette=labels.palette,
        mean=scaling.mean,
        std=scaling.std,
        inference_size=inference_size,
        default_score="dense_hybrid" if outlier_head else "energy",
    )


def classes_of(
    checkpoint: Checkpoint, outputs: int, stated: Labels | None
) -> tuple[Labels, bool, tuple[str, ...]]:
    """Which classes the outputs of a classifier are.

    PEBAL's releases have one output more than classes: its abstention class.

    Args:
        checkpoint: For errors.
        outputs: Channels of the last layer.
        stated: The classes that a user said.

    Returns:
        The classes, whether there is an abstention class behind them, and remarks.

    Raises:
        CheckpointError: As many classes as stated cannot be.
    """
    if stated is not None:
        if len(stated.classes) not in (outputs, outputs - 1):
            raise CheckpointError(
                f"{checkpoint.path}: its last layer has {outputs} outputs, which cannot be the "
                f"{len(stated.classes)} classes that were given"
            )
        return stated, len(stated.classes) < outputs, numbered_remarks(stated)
    if labels := known_labels(outputs):
        return labels, False, ()
    if labels := known_labels(outputs - 1):
        remark = (
            f"{outputs} outputs are read as {outputs - 1} classes and PEBAL's abstention class, "
            f"a guess; {how_to_overrule(outputs)}"
        )
        return labels, True, (remark,)
    labels = numbered_labels(outputs)
    return labels, False, numbered_remarks(labels)


def how_to_overrule(outputs: int) -> str:
    """What to say where a guess takes the last of these outputs for no class."""
    return (
        f"if they are {outputs} classes: convert_model --num-classes {outputs}, "
        "or --classes TAXONOMY.yaml"
    )


def numbered_remarks(labels: Labels) -> tuple[str, ...]:
    """A remark, if the names of the classes are mere numbers."""
    if not labels.guessed:
        return ()
    return (
        f"nothing says what its {len(labels.classes)} classes are; they are numbered. "
        "Name them: convert_model --classes TAXONOMY.yaml",
    )

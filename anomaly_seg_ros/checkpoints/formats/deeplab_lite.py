# SPDX-License-Identifier: Apache-2.0
"""Our default network, as a training of this project leaves it (``last.pt``, ``best.pt``)."""

from __future__ import annotations

from anomaly_seg_ros.checkpoints.formats.base import (
    CheckpointFormat,
    Description,
    classes_of,
    how_to_overrule,
    outlier_head_of,
    width,
)
from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.checkpoints.reading import Checkpoint
from anomaly_seg_ros.models.input_scaling import EFFICIENTNET_LITE
from anomaly_seg_ros.taxonomy import Taxonomy

# Only lite2 has this block.
_LITE2_BLOCK = "backbone.stages.1.2.depthwise.0.weight"


def _describe(checkpoint: Checkpoint, stated: Taxonomy | None) -> Description:
    tensors = checkpoint.tensors
    outputs = width(checkpoint, "classifier.weight", 19)
    taxonomy, abstention, remarks = classes_of(checkpoint, outputs, stated)
    if abstention:
        remarks = (
            f"{outputs} outputs are read as {outputs - 1} classes and PEBAL's abstention class of "
            f"an unfinished training, which cannot be loaded, a guess; {how_to_overrule(outputs)}",
        )
    outlier_head = outlier_head_of(checkpoint, EFFICIENTNET_LITE)
    metadata = ModelMetadata(
        name="deeplab_v3plus_lite",
        architecture="deeplab_v3plus_lite",
        arguments={
            "num_classes": len(taxonomy.classes),
            "backbone": "lite2" if _LITE2_BLOCK in tensors else "lite0",
            "decoder_channels": width(checkpoint, "lateral8.0.weight", 128),
            "skip_channels": width(checkpoint, "lateral4.0.weight", 48),
            "outlier_head": outlier_head,
        },
        classes=taxonomy.classes,
        palette=taxonomy.palette,
        mean=EFFICIENTNET_LITE.mean,
        std=EFFICIENTNET_LITE.std,
        inference_size=(512, 1024),
        default_score="dense_hybrid" if outlier_head else "energy",
    )
    return Description("a training of this project", metadata, remarks)


DEEPLAB_LITE = CheckpointFormat(
    name="deeplab_v3plus_lite",
    title="DeepLabV3+ with EfficientNet-Lite (a training of this project)",
    landmarks=("backbone.stem.0.0.weight", "lateral16.0.weight", "fuse4.0.0.weight"),
    describe=_describe,
)

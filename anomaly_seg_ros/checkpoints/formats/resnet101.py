# SPDX-License-Identifier: Apache-2.0
"""DeepLabV3+ with ResNet101, in its two public shapes.

- deep stem (SML, RobustNet: ``r101_os8_base_cty.pth``): three 3x3 convolutions ``layer0.{0,3,6}``,
  ``final1`` and ``final2``, and an auxiliary classifier ``dsn`` that only training uses;
- plain 7x7 stem (NVIDIA): ``layer0.0``, ``final.*``.
"""

from __future__ import annotations

from anomaly_seg_ros.checkpoints.formats.base import (
    CITYSCAPES_SIZE,
    CheckpointFormat,
    Description,
    classes_of,
    metadata_of,
    outlier_head_of,
    width,
)
from anomaly_seg_ros.checkpoints.reading import Checkpoint
from anomaly_seg_ros.models.input_scaling import IMAGENET
from anomaly_seg_ros.taxonomy import Taxonomy


def _describe(checkpoint: Checkpoint, stated: Taxonomy | None) -> Description:
    tensors = checkpoint.tensors
    deep = "layer0.3.weight" in tensors or "final1.0.weight" in tensors
    outputs = width(checkpoint, "final2.0.weight" if deep else "final.6.weight", 19)
    taxonomy, abstention, remarks = classes_of(checkpoint, outputs, stated)
    outlier_head = outlier_head_of(checkpoint, IMAGENET, "logits_ood")
    metadata = metadata_of(
        f"resnet101_{'deep' if deep else 'plain'}_stem",
        "resnet101",
        taxonomy,
        IMAGENET,
        CITYSCAPES_SIZE,
        outlier_head,
        stem="deep" if deep else "plain",
        auxiliary=any(key.startswith("dsn.") for key in tensors),
        abstention=abstention,
    )
    release = "SML / RobustNet, deep stem" if deep else "NVIDIA DeepLabV3+, plain stem"
    return Description(release, metadata, remarks)


RESNET101 = CheckpointFormat(
    name="resnet101",
    title="DeepLabV3+ with ResNet101 (SML and RobustNet: deep stem; NVIDIA: plain stem)",
    landmarks=("layer0.0.weight", "layer3.22.conv3.weight", "aspp.features.0.0.weight"),
    describe=_describe,
)

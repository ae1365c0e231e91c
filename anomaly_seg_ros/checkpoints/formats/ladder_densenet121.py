# SPDX-License-Identifier: Apache-2.0
"""LDN-121, the ladder-style DenseNet of the DenseHybrid release; its images are not normalised."""

from __future__ import annotations

from anomaly_seg_ros.checkpoints.formats.base import (
    CITYSCAPES_SIZE,
    STREET_HAZARDS_SIZE,
    CheckpointFormat,
    Description,
    classes_of,
    metadata_of,
    outlier_head_of,
    width,
)
from anomaly_seg_ros.checkpoints.reading import Checkpoint
from anomaly_seg_ros.models.input_scaling import UNSCALED
from anomaly_seg_ros.taxonomy import Taxonomy


def _describe(checkpoint: Checkpoint, stated: Taxonomy | None) -> Description:
    outputs = width(checkpoint, "logits.conv.weight", 19)
    taxonomy, abstention, remarks = classes_of(checkpoint, outputs, stated)
    outlier_head = outlier_head_of(checkpoint, UNSCALED, "logits_ood")
    cityscapes = len(taxonomy.classes) == 19
    metadata = metadata_of(
        f"ladder_densenet121_{'densehybrid' if outlier_head else 'closed_set'}",
        "ladder_densenet121",
        taxonomy,
        UNSCALED,
        CITYSCAPES_SIZE if cityscapes else STREET_HAZARDS_SIZE,
        outlier_head,
        abstention=abstention,
    )
    release = "DenseHybrid" if outlier_head else "DenseHybrid, closed-set"
    return Description(release, metadata, remarks)


LADDER_DENSENET121 = CheckpointFormat(
    name="ladder_densenet121",
    title="LDN-121, ladder-style DenseNet (DenseHybrid)",
    landmarks=(
        "backbone.features.denseblock4.denselayer16.conv2.weight",
        "spp.spp.spp.spp_bn.conv.weight",
        "upsample.upsample_layers.upsample_0.blend_conv.conv.weight",
    ),
    describe=_describe,
)

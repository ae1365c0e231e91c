# SPDX-License-Identifier: Apache-2.0
"""EfficientViT-B0 to B3 for Cityscapes, the public checkpoints (Cai et al., ICCV 2023)."""

from __future__ import annotations

from anomaly_seg_ros.checkpoints.formats.base import (
    CITYSCAPES_SIZE,
    CheckpointFormat,
    Description,
    calibrated_metadata,
    classes_of,
    has_values,
    metadata_of,
    outlier_head_of,
    width,
)
from anomaly_seg_ros.checkpoints.reading import Checkpoint
from anomaly_seg_ros.models.efficientvit_seg import VARIANTS
from anomaly_seg_ros.models.input_scaling import IMAGENET
from anomaly_seg_ros.taxonomy import Taxonomy

_STEM = "backbone.input_stem.op_list.0.conv.weight"
_BIAS = "head.output_ops.0.op_list.1.conv.bias"
# SHA-256 of the classifier's bias in the public B0: our calibration is of these weights.
_PUBLIC_B0_BIAS = "ea43bda3dc49da32e63f9baafcd1e0892392a3af80cab96e26485b7a47c88370"
_VARIANT_OF_STEM = {size.widths[0]: name for name, size in VARIANTS.items()}


def _describe(checkpoint: Checkpoint, stated: Taxonomy | None) -> Description:
    outputs = width(checkpoint, _BIAS, 19)
    taxonomy, abstention, remarks = classes_of(checkpoint, outputs, stated)
    variant = _VARIANT_OF_STEM.get(width(checkpoint, _STEM, 8), "b0")
    outlier_head = outlier_head_of(checkpoint, IMAGENET)
    if stated is None and not outlier_head and has_values(checkpoint, _BIAS, _PUBLIC_B0_BIAS):
        return Description(
            "the public EfficientViT-B0 (Cai et al.)",
            calibrated_metadata("efficientvit_b0_cityscapes"),
        )
    metadata = metadata_of(
        f"efficientvit_{variant}",
        "efficientvit_seg",
        taxonomy,
        IMAGENET,
        CITYSCAPES_SIZE,
        outlier_head,
        variant=variant,
        abstention=abstention,
    )
    return Description(f"EfficientViT-{variant.upper()} (Cai et al.)", metadata, remarks)


EFFICIENTVIT_SEG = CheckpointFormat(
    name="efficientvit_seg",
    title="EfficientViT-B0 to B3 (the public Cityscapes checkpoints)",
    landmarks=(_STEM, "backbone.stages.2.op_list.1.context_module.main.qkv.conv.weight"),
    describe=_describe,
)

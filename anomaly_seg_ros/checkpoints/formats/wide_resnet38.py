# SPDX-License-Identifier: Apache-2.0
"""DeepLabV3+ with WideResNet38: NVIDIA's Cityscapes releases and what was fine-tuned from them.

- NVIDIA: ``state_dict``, prefix ``module.``, the loss's class weights among the tensors;
- DenseHybrid: bare, with ``logits_ood.*``; its code normalises inside the model, with the same
  constants;
- PEBAL: ``model``, prefix ``branch1.``, one output more than classes.
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

# Above any honest mIoU of this network on the validation images, in per cent.
_TRAINED_ON_VALIDATION = 85
_NOT_COMPARABLE = (
    "its recorded mIoU of {:.1f} % includes validation images that were trained on: NVIDIA's "
    "cityscapes_best; cityscapes_cv0_wideresnet38_nosdcaug (81.4 %) kept them apart"
)


def _describe(checkpoint: Checkpoint, stated: Taxonomy | None) -> Description:
    outputs = width(checkpoint, "final.6.weight", 19)
    taxonomy, abstention, remarks = classes_of(checkpoint, outputs, stated)
    outlier_head = outlier_head_of(checkpoint, IMAGENET, "logits_ood")
    if outlier_head:
        who, release = "densehybrid", "DenseHybrid"
    elif abstention or "branch1." in checkpoint.prefixes:
        who, release = "pebal", "PEBAL"
    else:
        who, release = "nvidia", "NVIDIA DeepLabV3+"
        remarks = (*remarks, *_caveat(checkpoint))
    metadata = metadata_of(
        f"wide_resnet38_{who}",
        "wide_resnet38",
        taxonomy,
        IMAGENET,
        CITYSCAPES_SIZE,
        outlier_head,
        abstention=abstention,
    )
    return Description(release, metadata, remarks)


def _caveat(checkpoint: Checkpoint) -> tuple[str, ...]:
    """A word on the recorded mIoU, which is a fraction or in per cent."""
    recorded = checkpoint.mean_iou or 0.0
    percent = recorded if recorded > 1 else 100 * recorded
    return (_NOT_COMPARABLE.format(percent),) if percent > _TRAINED_ON_VALIDATION else ()


WIDE_RESNET38 = CheckpointFormat(
    name="wide_resnet38",
    title="DeepLabV3+ with WideResNet38 (NVIDIA, DenseHybrid, PEBAL)",
    landmarks=(
        "mod1.conv1.weight",
        "mod7.block1.convs.conv3.weight",
        "aspp.features.0.0.weight",
        "bot_fine.weight",
    ),
    describe=_describe,
)

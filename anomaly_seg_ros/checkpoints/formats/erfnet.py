# SPDX-License-Identifier: Apache-2.0
"""ERFNet: the public Cityscapes checkpoint, and others trained with its code."""

from __future__ import annotations

from dataclasses import replace

from anomaly_seg_ros.checkpoints.formats.base import (
    CheckpointFormat,
    Description,
    calibrated_metadata,
    has_values,
    how_to_overrule,
    numbered_remarks,
    outlier_head_of,
    width,
)
from anomaly_seg_ros.checkpoints.reading import Checkpoint
from anomaly_seg_ros.errors import CheckpointError
from anomaly_seg_ros.taxonomy import Taxonomy, known_taxonomy, numbered_taxonomy

_BIAS = "decoder.output_conv.bias"
# SHA-256 of the classifier's bias in the public checkpoint: our calibration is of these weights.
_PUBLIC_BIAS = "6f9b908c7a25f03733ec2bafd4d2e8956e805e56f5055fa41451af2cfa53efa0"


def _describe(checkpoint: Checkpoint, stated: Taxonomy | None) -> Description:
    public = calibrated_metadata("erfnet_cityscapes")
    # A transposed convolution: its weight is (in, out, height, width), so the bias tells.
    outputs = width(checkpoint, _BIAS, 20)
    taxonomy, remarks = _classes(checkpoint, outputs, stated)
    outlier_head = outlier_head_of(checkpoint, public.input_scaling)
    arguments = {
        "num_classes": len(taxonomy.classes),
        "num_outputs": outputs,
        "outlier_head": outlier_head,
    }
    if stated is None and not outlier_head and has_values(checkpoint, _BIAS, _PUBLIC_BIAS):
        return Description("the public ERFNet (Romera et al.)", public)
    metadata = replace(
        public,
        name="erfnet",
        arguments=arguments,
        classes=taxonomy.classes,
        palette=taxonomy.palette,
        default_score="dense_hybrid" if outlier_head else "energy",
        calibration={},
        statistics=None,
        provenance={},
    )
    return Description("ERFNet, trained by somebody else", metadata, remarks)


def _classes(
    checkpoint: Checkpoint, outputs: int, stated: Taxonomy | None
) -> tuple[Taxonomy, tuple[str, ...]]:
    """ERFNet's code trains one output more than classes, for pixels without a label."""
    if stated is not None:
        if len(stated.classes) > outputs:
            raise CheckpointError(
                f"{checkpoint.path}: {len(stated.classes)} classes were given, but its last layer "
                f"has {outputs} outputs"
            )
        return stated, numbered_remarks(stated)
    if taxonomy := known_taxonomy(outputs):
        return taxonomy, ()
    if taxonomy := known_taxonomy(outputs - 1):
        remark = (
            f"{outputs} outputs are read as {outputs - 1} classes and one for pixels without a "
            f"label, as ERFNet's code trains them, a guess; {how_to_overrule(outputs)}"
        )
        return taxonomy, (remark,)
    taxonomy = numbered_taxonomy(outputs)
    return taxonomy, numbered_remarks(taxonomy)


ERFNET = CheckpointFormat(
    name="erfnet",
    title="ERFNet (the public Cityscapes checkpoint and its like)",
    landmarks=("encoder.initial_block.conv.weight", "decoder.output_conv.weight"),
    describe=_describe,
)

# SPDX-License-Identifier: Apache-2.0
"""Public checkpoint formats, one file each."""

from __future__ import annotations

from anomaly_seg_ros.checkpoints.formats.base import CheckpointFormat
from anomaly_seg_ros.checkpoints.formats.deeplab_lite import DEEPLAB_LITE
from anomaly_seg_ros.checkpoints.formats.efficientvit_seg import EFFICIENTVIT_SEG
from anomaly_seg_ros.checkpoints.formats.erfnet import ERFNET
from anomaly_seg_ros.checkpoints.formats.ladder_densenet121 import LADDER_DENSENET121
from anomaly_seg_ros.checkpoints.formats.resnet101 import RESNET101
from anomaly_seg_ros.checkpoints.formats.wide_resnet38 import WIDE_RESNET38

FORMATS: dict[str, CheckpointFormat] = {
    known.name: known
    for known in (
        *(WIDE_RESNET38, RESNET101, LADDER_DENSENET121),
        *(ERFNET, EFFICIENTVIT_SEG, DEEPLAB_LITE),
    )
}

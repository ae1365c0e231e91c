"""DeepLabV3+ on WideResNet38: the network of the public Cityscapes, DenseHybrid, PEBAL weights."""

from __future__ import annotations

from collections import OrderedDict
from types import MappingProxyType

import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_seg_ros.models.deeplab_v3plus import (
    CONTEXT_CHANNELS,
    FINE_CHANNELS,
    AtrousSpatialPyramid,
    DeepLabV3Plus,
    refinement,
)
from anomaly_seg_ros.models.outlier_head import OutlierHead
from anomaly_seg_ros.models.wide_resnet import pre_activation_stage

_DECODER = ("aspp", "bot_fine", "bot_aspp", "final")


class DeepLabV3PlusWideResNet38(DeepLabV3Plus):
    """WideResNet38 at stride 8, ASPP, and a decoder at half resolution.

    The trunk is the variant that halves the image twice by max pooling and once by a strided
    convolution, then dilates (Rota Bulo et al., "In-Place Activated BatchNorm", CVPR 2018). Fine
    features come from ``mod2``, at stride 2. The pre-logits are the 304 channels before the
    ``final`` block, as DenseHybrid's outlier head reads them, and the classifier is that block.

    Args:
        num_classes: K.
        outlier_head: Adds the DenseHybrid head (BN - ReLU - 1x1) on the pre-logits.
        abstention: PEBAL's layout: K + 1 outputs, of which the first K are the logits.
    """

    output_stride = 2
    trunk = ("mod1", "mod2", "mod3", "mod4", "mod5", "mod6", "mod7")
    trainable_parts = MappingProxyType(
        {
            "last_layer": ("final.6",),
            "classification_head": ("final",),
            "decoder": _DECODER,
            # The trunk's dilated stages.
            "upper": ("mod5", "mod6", "mod7", *_DECODER),
        }
    )

    def __init__(
        self, num_classes: int = 19, outlier_head: bool = False, abstention: bool = False
    ) -> None:
        super().__init__(num_classes, abstention)
        self.mod1 = nn.Sequential(OrderedDict(conv1=nn.Conv2d(3, 64, 3, padding=1, bias=False)))
        self.mod2 = pre_activation_stage(64, (128, 128), 3)
        self.mod3 = pre_activation_stage(128, (256, 256), 3)
        self.mod4 = pre_activation_stage(256, (512, 512), 6, stride=2)
        self.mod5 = pre_activation_stage(512, (512, 1024), 3, dilation=2)
        self.mod6 = pre_activation_stage(1024, (512, 1024, 2048), 1, dilation=4, dropout=0.3)
        self.mod7 = pre_activation_stage(2048, (1024, 2048, 4096), 1, dilation=4, dropout=0.5)
        self.aspp = AtrousSpatialPyramid(4096)
        self.bot_fine = nn.Conv2d(128, FINE_CHANNELS, 1, bias=False)
        self.bot_aspp = nn.Conv2d(self.aspp.out_channels, CONTEXT_CHANNELS, 1, bias=False)
        outputs = num_classes + int(abstention)
        self.final = refinement().append(nn.Conv2d(CONTEXT_CHANNELS, outputs, 1, bias=False))
        self.logits_ood = OutlierHead(self.pre_logits_channels) if outlier_head else None

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (N, 3, H, W) to (N, 128, H / 2, W / 2) and (N, 4096, H / 8, W / 8)."""
        fine = self.mod2(_halve(self.mod1(images)))
        x = self.mod4(self.mod3(_halve(fine)))
        return fine, self.mod7(self.mod6(self.mod5(x)))

    def all_outputs(self, pre_logits: Tensor) -> Tensor:
        """Maps pre-logits (N, 304, h, w) to all outputs: (N, K or K + 1, h, w)."""
        return self.final(pre_logits)


def _halve(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=2, padding=1)

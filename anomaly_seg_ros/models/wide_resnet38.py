# SPDX-License-Identifier: Apache-2.0
"""DeepLabV3+ on WideResNet38: the network of the public Cityscapes, DenseHybrid, PEBAL weights.

Sources: Wu, Shen & van den Hengel, "Wider or Deeper" (Pattern Recognition 2019), for the trunk;
He et al., "Identity Mappings in Deep Residual Networks" (ECCV 2016), for its blocks, which apply
the activation first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_seg_ros.models.deeplab_v3plus import (
    CONTEXT_CHANNELS,
    FINE_CHANNELS,
    AtrousSpatialPyramid,
    DeepLabV3Plus,
    refinement,
)
from anomaly_seg_ros.models.outlier_branch import build_outlier_head

_KERNELS = {2: (3, 3), 3: (1, 3, 1)}
_DECODER = ("aspp", "bot_fine", "bot_aspp", "final")


class DeepLabV3PlusWideResNet38(DeepLabV3Plus):
    """WideResNet38 at stride 8, ASPP, and a decoder at half resolution.

    The trunk is the variant that halves the image twice by max pooling and once by a strided
    convolution, then dilates (Rota Bulo et al., "In-Place Activated BatchNorm", CVPR 2018). Fine
    features come from ``mod2``, at stride 2. The pre-logits are the 304 channels before the
    ``final`` block, as DenseHybrid's outlier head reads them, and the classifier is that block.

    Args:
        num_classes: K.
        outlier_head: See :func:`~anomaly_seg_ros.models.outlier_branch.build_outlier_head`.
        abstention: PEBAL's layout: K + 1 outputs, of which the first K are the logits.
    """

    output_stride = 2
    feature_layers = MappingProxyType({"mod2": 128, "mod4": 512, "mod7": 4096})
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
        self,
        num_classes: int = 19,
        outlier_head: bool | Mapping[str, Any] = False,
        abstention: bool = False,
    ) -> None:
        super().__init__(num_classes, abstention)
        self.mod1 = nn.Sequential(OrderedDict(conv1=nn.Conv2d(3, 64, 3, padding=1, bias=False)))
        self.mod2 = _pre_activation_stage(64, (128, 128), 3)
        self.mod3 = _pre_activation_stage(128, (256, 256), 3)
        self.mod4 = _pre_activation_stage(256, (512, 512), 6, stride=2)
        self.mod5 = _pre_activation_stage(512, (512, 1024), 3, dilation=2)
        self.mod6 = _pre_activation_stage(1024, (512, 1024, 2048), 1, dilation=4, dropout=0.3)
        self.mod7 = _pre_activation_stage(2048, (1024, 2048, 4096), 1, dilation=4, dropout=0.5)
        self.aspp = AtrousSpatialPyramid(4096)
        self.bot_fine = nn.Conv2d(128, FINE_CHANNELS, 1, bias=False)
        self.bot_aspp = nn.Conv2d(self.aspp.out_channels, CONTEXT_CHANNELS, 1, bias=False)
        outputs = num_classes + int(abstention)
        self.final = refinement().append(nn.Conv2d(CONTEXT_CHANNELS, outputs, 1, bias=False))
        self.logits_ood = build_outlier_head(self, outlier_head)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (N, 3, H, W) to (N, 128, H / 2, W / 2) and (N, 4096, H / 8, W / 8)."""
        fine = self.mod2(_halve(self.mod1(images)))
        x = self.mod4(self.mod3(_halve(fine)))
        return fine, self.mod7(self.mod6(self.mod5(x)))

    def all_outputs(self, pre_logits: Tensor) -> Tensor:
        """Maps pre-logits (N, 304, h, w) to all outputs: (N, K or K + 1, h, w)."""
        return self.final(pre_logits)


def without_imagenet_classifier(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leaves ImageNet's last BatchNorm and classifier out of the classification network.

    Args:
        state_dict: ``wider_resnet38.pth.tar``, from which NVIDIA's releases were trained.

    Returns:
        All tensors but ``bn_out.*`` and ``classifier.*``.
    """
    own = ("bn_out.", "classifier.")
    return {key: value for key, value in state_dict.items() if not key.startswith(own)}


def _halve(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=2, padding=1)


def _norm_relu(channels: int) -> nn.Sequential:
    """BatchNorm, ReLU."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class _PreActivationBlock(nn.Module):
    """Shortcut plus (BatchNorm - ReLU - convolution) for every width.

    A shortcut that must change shape is a 1x1 convolution of the activated input.

    Args:
        c_in: Channels of the input.
        widths: Output channels of the convolutions: two 3x3, or 1x1 - 3x3 - 1x1.
        stride: The first convolution's.
        dilation: The 3x3 convolutions'.
        dropout: Rate, for whole channels, before the last convolution.
    """

    def __init__(
        self,
        c_in: int,
        widths: tuple[int, ...],
        stride: int = 1,
        dilation: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.bn1 = _norm_relu(c_in)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = c_in
        for index, (kernel, width) in enumerate(zip(_KERNELS[len(widths)], widths, strict=True)):
            if index > 0:
                layers[f"bn{index + 1}"] = _norm_relu(channels)
            if dropout and index == len(widths) - 1:
                layers["dropout"] = nn.Dropout2d(dropout)
            layers[f"conv{index + 1}"] = nn.Conv2d(
                channels,
                width,
                kernel,
                stride=stride if index == 0 else 1,
                padding=dilation * (kernel // 2),
                dilation=dilation if kernel > 1 else 1,
                bias=False,
            )
            channels = width
        self.convs = nn.Sequential(layers)
        keeps_shape = stride == 1 and c_in == channels
        self.proj_conv = None if keeps_shape else nn.Conv2d(c_in, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, c_in, h, w) to (N, widths[-1], ceil(h / stride), ceil(w / stride))."""
        activated = self.bn1(x)
        shortcut = x if self.proj_conv is None else self.proj_conv(activated)
        return self.convs(activated).add_(shortcut)


def _pre_activation_stage(
    c_in: int,
    widths: tuple[int, ...],
    blocks: int,
    stride: int = 1,
    dilation: int = 1,
    dropout: float = 0.0,
) -> nn.Sequential:
    """``block1``, ``block2``, ...; only the first one changes shape."""
    stage: OrderedDict[str, nn.Module] = OrderedDict()
    for index in range(blocks):
        first = index == 0
        stage[f"block{index + 1}"] = _PreActivationBlock(
            c_in if first else widths[-1], widths, stride if first else 1, dilation, dropout
        )
    return nn.Sequential(stage)

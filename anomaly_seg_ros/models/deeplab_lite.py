# SPDX-License-Identifier: Apache-2.0
"""A light DeepLabV3+ on EfficientNet-Lite: the default model of this package.

Follows Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image
Segmentation" (ECCV 2018): atrous spatial pyramid pooling on the deepest features and a decoder of
separable convolutions with a low-level skip. Two changes keep it light and fine: the trunk stays
at stride 32 (dilating its last stages would double the cost), and the decoder climbs back through
skips at strides 16, 8 and 4, because objects on the road are a handful of pixels at stride 16.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_seg_ros.contract import NetworkOutput, SegmentationNetwork
from anomaly_seg_ros.models.efficientnet_lite import TAPS, EfficientNetLite, conv_bn
from anomaly_seg_ros.models.outlier_branch import build_outlier_head

_DECODER = (
    *("aspp", "lateral16", "lateral8", "lateral4"),
    *("fuse16", "fuse8", "fuse4", "classifier"),
)


def _separable(c_in: int, c_out: int, dilation: int = 1) -> nn.Sequential:
    depthwise = nn.Conv2d(c_in, c_in, 3, 1, dilation, dilation, groups=c_in, bias=False)
    return nn.Sequential(
        depthwise,
        nn.BatchNorm2d(c_in),
        nn.Conv2d(c_in, c_out, 1, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(inplace=True),
    )


def _pointwise(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(*conv_bn(c_in, c_out, 1), nn.ReLU(inplace=True))


class AtrousPyramid(nn.Module):
    """ASPP with separable atrous branches and image pooling (Chen et al. 2017).

    The image branch pools over the whole image, so its output depends on the crop; that is
    DeepLab's own behaviour.
    """

    def __init__(self, c_in: int, c_out: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.reduce = _pointwise(c_in, c_out)
        self.branches = nn.ModuleList(_separable(c_out, c_out, d) for d in dilations)
        # No BatchNorm here: on a 1x1 map its statistics come from the batch size alone.
        self.image = nn.Sequential(nn.Conv2d(c_in, c_out, 1), nn.ReLU(inplace=True))
        self.project = _pointwise(c_out * (2 + len(dilations)), c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, c_in, h, w) to (N, c_out, h, w)."""
        reduced = self.reduce(x)
        image = self.image(x.mean((2, 3), keepdim=True)).expand_as(reduced)
        return self.project(torch.cat([reduced, *(b(reduced) for b in self.branches), image], 1))


class DeepLabV3PlusLite(SegmentationNetwork):
    """EfficientNet-Lite trunk, ASPP, and a decoder with skips at strides 16, 8 and 4.

    Args:
        num_classes: K.
        backbone: ``lite0`` or ``lite2``.
        decoder_channels: Width of the decoder and of the pre-logits.
        skip_channels: Width to which the stride-4 features are reduced before they are joined.
        dilations: Atrous rates at stride 32.
        outlier_head: See :func:`~anomaly_seg_ros.models.outlier_branch.build_outlier_head`.
    """

    output_stride = 4
    size_multiple = 32
    trunk = ("backbone",)
    trainable_parts = MappingProxyType(
        {
            "last_layer": ("classifier",),
            "classification_head": ("fuse4", "classifier"),
            "decoder": _DECODER,
            # The trunk's stages at strides 16 and 32.
            "upper": (*(f"backbone.stages.{i}" for i in range(3, 7)), *_DECODER),
        }
    )

    def __init__(
        self,
        num_classes: int = 19,
        backbone: str = "lite0",
        decoder_channels: int = 128,
        skip_channels: int = 48,
        dilations: tuple[int, ...] = (2, 4, 8),
        outlier_head: bool | Mapping[str, Any] = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.pre_logits_channels = decoder_channels
        self.backbone = EfficientNetLite(backbone)
        c4, c8, c16, c32 = self.backbone.out_channels
        self.aspp = AtrousPyramid(c32, decoder_channels, tuple(dilations))
        self.lateral16 = _pointwise(c16, decoder_channels)
        self.lateral8 = _pointwise(c8, decoder_channels)
        self.lateral4 = _pointwise(c4, skip_channels)
        self.fuse16 = _separable(decoder_channels, decoder_channels)
        self.fuse8 = _separable(decoder_channels, decoder_channels)
        self.fuse4 = nn.Sequential(
            _separable(decoder_channels + skip_channels, decoder_channels),
            _separable(decoder_channels, decoder_channels),
        )
        self.classifier = nn.Conv2d(decoder_channels, num_classes, 1)
        self.feature_layers = {
            f"backbone.stages.{i}": c for i, c in zip(TAPS, (c4, c8, c16, c32), strict=True)
        }
        self.outlier_head = build_outlier_head(self, outlier_head)

    def forward(self, images: Tensor) -> NetworkOutput:
        """Runs the network.

        Args:
            images: (N, 3, H, W), normalised; H and W multiples of 32.

        Returns:
            Outputs at (H / 4, W / 4).
        """
        x4, x8, x16, x32 = self.backbone(images)
        x = self.aspp(x32)
        x = self.fuse16(_resize_to(x, x16) + self.lateral16(x16))
        x = self.fuse8(_resize_to(x, x8) + self.lateral8(x8))
        x = self.fuse4(torch.cat([_resize_to(x, x4), self.lateral4(x4)], 1))
        return self.outputs(x)

    def classify(self, pre_logits: Tensor) -> Tensor:
        """Maps pre-logits (N, C, h, w) to logits (N, K, h, w)."""
        return self.classifier(pre_logits)


def _resize_to(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)

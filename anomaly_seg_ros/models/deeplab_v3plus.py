# SPDX-License-Identifier: Apache-2.0
"""What the DeepLabV3+ networks of the public Cityscapes checkpoints share.

Source: Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image
Segmentation" (ECCV 2018), in the form that Zhu et al., "Improving Semantic Segmentation via Video
Propagation and Label Relaxation" (CVPR 2019) made public: plain instead of separable convolutions
and a trunk at stride 8. Module names follow their checkpoints, so these load strictly.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_seg_ros.contract import NetworkOutput, SegmentationNetwork

FINE_CHANNELS = 48
CONTEXT_CHANNELS = 256
PRE_LOGITS_CHANNELS = FINE_CHANNELS + CONTEXT_CHANNELS
# The paper's 6, 12, 18 are for stride 16.
_DILATIONS_AT_STRIDE_8 = (12, 24, 36)


def conv_norm_relu(c_in: int, c_out: int, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    """Bias-free convolution that keeps the size, BatchNorm, ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(inplace=True),
    )


def refinement() -> nn.Sequential:
    """The two 3x3 convolutions that mix fine and context features before the last layer."""
    return nn.Sequential(
        *conv_norm_relu(PRE_LOGITS_CHANNELS, CONTEXT_CHANNELS, 3),
        *conv_norm_relu(CONTEXT_CHANNELS, CONTEXT_CHANNELS, 3),
    )


class AtrousSpatialPyramid(nn.Module):
    """ASPP at stride 8: a 1x1 branch, three atrous branches and the mean of the whole image.

    The mean depends on the crop; that is DeepLab's own behaviour. In training mode its BatchNorm
    sees one value a channel and image, so a batch needs two images at least.

    Args:
        c_in: Channels of the deepest features.
    """

    out_channels = CONTEXT_CHANNELS * (2 + len(_DILATIONS_AT_STRIDE_8))

    def __init__(self, c_in: int) -> None:
        super().__init__()
        self.features = nn.ModuleList(
            [
                conv_norm_relu(c_in, CONTEXT_CHANNELS),
                *(conv_norm_relu(c_in, CONTEXT_CHANNELS, 3, d) for d in _DILATIONS_AT_STRIDE_8),
            ]
        )
        self.img_conv = conv_norm_relu(c_in, CONTEXT_CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, c_in, h, w) to (N, 1280, h, w), the image branch first."""
        image = self.img_conv(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[-2:])
        return torch.cat([image, *(branch(x) for branch in self.features)], 1)


class DeepLabV3Plus(SegmentationNetwork):
    """Base of the networks: subclasses build the layers and say what the trunk's features are.

    They register ``aspp``, ``bot_fine``, ``bot_aspp``, a classifier, and ``logits_ood``.

    Args:
        num_classes: K.
        abstention: The last layer has one output more (PEBAL's abstention class), which
            :meth:`classify` leaves out.
    """

    aspp: AtrousSpatialPyramid
    bot_fine: nn.Module
    bot_aspp: nn.Module
    size_multiple = 8
    align_corners = True
    pre_logits_channels = PRE_LOGITS_CHANNELS

    def __init__(self, num_classes: int, abstention: bool) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.abstention = abstention
        self.logits_ood: nn.Module | None

    @property
    def outlier_head(self) -> nn.Module | None:  # type: ignore[override]
        """The outlier head under the contract's name; checkpoints call it ``logits_ood``."""
        return self.logits_ood

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps images (N, 3, H, W) to fine features and to the deepest ones, at stride 8."""
        raise NotImplementedError

    def all_outputs(self, pre_logits: Tensor) -> Tensor:
        """Maps pre-logits (N, 304, h, w) to all outputs: (N, K or K + 1, h, w)."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> NetworkOutput:
        """Runs the network.

        The public codes upsample its logits with ``align_corners=True``.

        Args:
            images: (N, 3, H, W), normalised; H and W multiples of 8.

        Returns:
            Outputs on the grid of the fine features, (H / s, W / s) with s the output stride;
            the pre-logits are the joined fine (48) and context (256) features.
        """
        # Nested: no name keeps the trunk's features, its largest, alive while the head runs.
        return self.outputs(self._decode(*self.features(images)))

    def classify(self, pre_logits: Tensor) -> Tensor:
        """Maps pre-logits (N, 304, h, w) to logits (N, K, h, w)."""
        return self.all_outputs(pre_logits)[:, : self.num_classes]

    def _decode(self, fine: Tensor, deep: Tensor) -> Tensor:
        fine = self.bot_fine(fine)
        context = self.bot_aspp(self.aspp(deep))
        context = F.interpolate(context, fine.shape[-2:], mode="bilinear", align_corners=True)
        return torch.cat([fine, context], 1)

# SPDX-License-Identifier: Apache-2.0
"""ERFNet, a real-time network of factorised residual blocks.

Source: Romera et al., "ERFNet: Efficient Residual Factorized ConvNet for Real-time Semantic
Segmentation" (IEEE T-ITS 2018), Table I. Parameter names follow the public checkpoints, so these
load strictly.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_seg_ros.contract import NetworkOutput, SegmentationNetwork
from anomaly_seg_ros.models.outlier_branch import build_outlier_head

_BN_EPS = 1e-3


class Downsampler(nn.Module):
    """Strided convolution and max pooling side by side."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out - c_in, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(c_out, eps=_BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, c_in, H, W) to (N, c_out, H / 2, W / 2)."""
        return F.relu(self.bn(torch.cat([self.conv(x), F.max_pool2d(x, 2, 2)], 1)))


class NonBottleneck1D(nn.Module):
    """Residual block of two factorised 3x3 convolutions, the second one dilated."""

    def __init__(self, channels: int, dropout: float, dilation: int) -> None:
        super().__init__()
        d = dilation
        self.conv3x1_1 = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
        self.conv1x3_1 = nn.Conv2d(channels, channels, (1, 3), padding=(0, 1))
        self.bn1 = nn.BatchNorm2d(channels, eps=_BN_EPS)
        self.conv3x1_2 = nn.Conv2d(channels, channels, (3, 1), padding=(d, 0), dilation=(d, 1))
        self.conv1x3_2 = nn.Conv2d(channels, channels, (1, 3), padding=(0, d), dilation=(1, d))
        self.bn2 = nn.BatchNorm2d(channels, eps=_BN_EPS)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape (N, C, H, W)."""
        y = F.relu(self.conv3x1_1(x))
        y = F.relu(self.bn1(self.conv1x3_1(y)))
        y = F.relu(self.conv3x1_2(y))
        y = self.dropout(self.bn2(self.conv1x3_2(y)))
        return F.relu(y + x)


class Upsampler(nn.Module):
    """Transposed 3x3 convolution of stride 2."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(c_in, c_out, 3, stride=2, padding=1, output_padding=1)
        self.bn = nn.BatchNorm2d(c_out, eps=_BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, c_in, H, W) to (N, c_out, 2 H, 2 W)."""
        return F.relu(self.bn(self.conv(x)))


class _Encoder(nn.Module):
    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.initial_block = Downsampler(3, 16)
        self.layers = nn.ModuleList(
            [
                Downsampler(16, 64),
                *(NonBottleneck1D(64, 0.03, 1) for _ in range(5)),
                Downsampler(64, 128),
                *(NonBottleneck1D(128, 0.3, d) for _ in range(2) for d in (2, 4, 8, 16)),
            ]
        )
        # Only used to pre-train the encoder; part of the public checkpoints.
        self.output_conv = nn.Conv2d(128, num_outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.initial_block(x)
        for layer in self.layers:
            x = layer(x)
        return x


class _Decoder(nn.Module):
    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                Upsampler(128, 64),
                NonBottleneck1D(64, 0.0, 1),
                NonBottleneck1D(64, 0.0, 1),
                Upsampler(64, 16),
                NonBottleneck1D(16, 0.0, 1),
                NonBottleneck1D(16, 0.0, 1),
            ]
        )
        self.output_conv = nn.ConvTranspose2d(16, num_outputs, 2, stride=2)


class ERFNet(SegmentationNetwork):
    """ERFNet with its decoder.

    Its classifier is itself an upsampling (a transposed convolution), so the pre-logits lie on
    half the resolution of the logits.

    Args:
        num_classes: K classes that are returned.
        num_outputs: Channels of the classifier; channels beyond K (the public checkpoint's void
            class) are computed and dropped. None: K + 1, as in its code.
        outlier_head: See :func:`~anomaly_seg_ros.models.outlier_branch.build_outlier_head`; its
            logits are brought to the grid of the class logits.
    """

    output_stride = 1
    size_multiple = 8
    pre_logits_channels = 16
    trunk = ("encoder",)
    # The last layers at strides 4 and 8.
    feature_layers = MappingProxyType({"encoder.layers.5": 64, "encoder.layers.14": 128})
    trainable_parts = MappingProxyType(
        {
            "last_layer": ("decoder.output_conv",),
            # The last upsampling stage and what follows.
            "classification_head": (
                *("decoder.layers.3", "decoder.layers.4", "decoder.layers.5"),
                "decoder.output_conv",
            ),
            "decoder": ("decoder",),
            # The encoder's dilated blocks, at stride 8.
            "upper": (*(f"encoder.layers.{i}" for i in range(7, 15)), "decoder"),
            # Without the encoder's own classifier, which the forward pass does not use.
            "all": ("encoder.initial_block", "encoder.layers", "decoder"),
        }
    )

    def __init__(
        self,
        num_classes: int = 19,
        num_outputs: int | None = None,
        outlier_head: bool | Mapping[str, Any] = False,
    ) -> None:
        super().__init__()
        num_outputs = num_classes + 1 if num_outputs is None else num_outputs
        if num_outputs < num_classes:
            raise ValueError(f"num_outputs {num_outputs} for {num_classes} classes")
        self.num_classes = num_classes
        self.encoder = _Encoder(num_outputs)
        self.decoder = _Decoder(num_outputs)
        self.outlier_head = build_outlier_head(self, outlier_head)

    def forward(self, images: Tensor) -> NetworkOutput:
        """Runs the network.

        Args:
            images: (N, 3, H, W) in [0, 1]; H and W multiples of 8.

        Returns:
            Pre-logits (N, 16, H / 2, W / 2), logits (N, K, H, W), and outlier logits (N, 2, H, W).
        """
        x = self.encoder(images)
        for layer in self.decoder.layers:
            x = layer(x)
        return self.outputs(x)

    def classify(self, pre_logits: Tensor) -> Tensor:
        """Maps pre-logits (N, 16, H / 2, W / 2) to logits (N, K, H, W)."""
        return self.decoder.output_conv(pre_logits)[:, : self.num_classes]

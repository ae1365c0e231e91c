# SPDX-License-Identifier: Apache-2.0
"""The DenseHybrid outlier head: inlier against outlier from the pre-logits."""

from __future__ import annotations

from torch import Tensor, nn


class OutlierHead(nn.Module):
    """BatchNorm - ReLU - 1x1 convolution to two channels (channel 1 = outlier).

    Source: Grcic et al., "DenseHybrid" (ECCV 2022); the layout and BatchNorm momentum of their
    public code.

    Args:
        in_channels: Width of the pre-logits.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels, momentum=0.01)
        self.activation = nn.ReLU()
        self.conv = nn.Conv2d(in_channels, 2, 1)

    def forward(self, pre_logits: Tensor, logits: Tensor | None = None) -> Tensor:
        """Maps pre-logits (N, C, h, w) to logits (N, 2, h, w); does not read the class logits."""
        return self.conv(self.activation(self.norm(pre_logits)))

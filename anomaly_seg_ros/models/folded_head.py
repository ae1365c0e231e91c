"""The outlier head for inference: half the arithmetic, no intermediate map.

With BatchNorm as s x + t, relu(s x + t) = s clamp(x) + t, where the clamp bounds x at -t / s: from
below for s > 0, from above for s < 0. So the 1x1 convolution absorbs s and t. And every score uses
the difference of the two logits alone, so one output is enough: (0, d) has the same softmax as
(a, a + d).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_seg_ros.models.outlier_head import OutlierHead

# Pixels that are clamped and multiplied before they leave the processor's cache.
_BLOCK = 2048


class FoldedOutlierHead(nn.Module):
    """Same softmax as the :class:`OutlierHead` it is made from, up to rounding.

    Args:
        head: In eval mode; its running statistics are built in.
    """

    def __init__(self, head: OutlierHead) -> None:
        super().__init__()
        norm, conv = head.norm, head.conv
        scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        shift = norm.bias.double() - norm.running_mean.double() * scale
        weight = (conv.weight[1] - conv.weight[0]).double().flatten()
        bias = (conv.bias[1] - conv.bias[0]).double()
        # A channel that BatchNorm switched off (s = 0) is the constant relu(t).
        off = scale == 0
        knee = -shift / torch.where(off, torch.ones_like(scale), scale)
        infinity = torch.full_like(scale, torch.inf)
        tensors = {
            "low": torch.where(scale > 0, knee, -infinity),
            "high": torch.where(scale < 0, knee, infinity),
            "weight": weight * scale,
            "bias": bias + (weight * torch.where(off, shift.clamp(min=0), shift)).sum(),
        }
        for name, value in tensors.items():
            self.register_buffer(name, value.detach().to(norm.weight.dtype))

    def forward(self, pre_logits: Tensor) -> Tensor:
        """Maps (N, C, h, w) to logits (N, 2, h, w), of which the first are 0."""
        if torch.compiler.is_compiling():  # or exporting: runtimes fuse this best
            low, high, weight = (v[:, None, None] for v in (self.low, self.high, self.weight))
            clamped = pre_logits.clamp(low, high)
            difference = F.conv2d(clamped, weight[None], self.bias[None])
        else:
            difference = self._difference(pre_logits)
        return torch.cat([torch.zeros_like(difference), difference], 1)

    def _difference(self, pre_logits: Tensor) -> Tensor:
        """Maps (N, C, h, w) to (N, 1, h, w), operator by operator."""
        n, channels, height, width = pre_logits.shape
        pixels = pre_logits.permute(0, 2, 3, 1)
        if pre_logits.device.type == "cpu":
            difference = self._in_blocks(pixels.reshape(-1, channels))
        else:
            difference = pixels.clamp(self.low, self.high) @ self.weight[:, None] + self.bias
        return difference.view(n, 1, height, width)

    def _in_blocks(self, pixels: Tensor) -> Tensor:
        """Maps (P, C) to (P,); a processor would else write and read a map of the input's size."""
        difference = pixels.new_empty(len(pixels))
        clamped = pixels.new_empty(min(_BLOCK, len(pixels)), pixels.shape[1])
        for block, out in zip(pixels.split(_BLOCK), difference.split(_BLOCK), strict=True):
            part = clamped[: len(block)]
            torch.clamp(block, self.low, self.high, out=part)
            torch.mv(part, self.weight, out=out)
        return difference.add_(self.bias)

# SPDX-License-Identifier: Apache-2.0
"""Changes to a trained network for inference: same function, fewer steps, shorter numbers.

The outlier head needs half the arithmetic and no intermediate map: with BatchNorm as s x + t,
relu(s x + t) = s clamp(x) + t, where the clamp bounds x at -t / s: from below for s > 0, from
above for s < 0. So the 1x1 convolution absorbs s and t. And every score uses the difference of the
two logits alone, so one output is enough: (0, d) has the same softmax as (a, a + d).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from anomaly_seg_ros.models.outlier_head import OutlierHead

# Pixels that are clamped and multiplied while they are in the processor's cache.
_BLOCK = 2048


def fold_batchnorm(network: nn.Module) -> nn.Module:
    """Folds every Conv2d - BatchNorm2d pair that stands side by side in an ``nn.Sequential``.

    The outlier head becomes a :class:`FoldedOutlierHead`.

    Args:
        network: In eval mode; changed in place, its state dict is no checkpoint afterwards.

    Returns:
        The same network: same function up to rounding, one memory pass less for each pair.
    """
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, OutlierHead):
                setattr(module, name, FoldedOutlierHead(child))
        if not isinstance(module, nn.Sequential):
            continue
        for index in range(len(module) - 1):
            conv, norm = module[index], module[index + 1]
            # An outlier branch may read what either gives.
            if conv._forward_hooks or norm._forward_hooks:
                continue
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module[index] = fuse_conv_bn_eval(conv, norm)
                module[index + 1] = nn.Identity()
    return network


class FoldedOutlierHead(nn.Module):
    """Same softmax as the :class:`OutlierHead` it is made from, up to rounding.

    Args:
        head: A head in eval mode, whose running statistics are built in.
    """

    low: Tensor
    high: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, head: OutlierHead) -> None:
        super().__init__()
        dtype = head.conv.weight.dtype
        stored = head.state_dict()
        values = {name: value.double() for name, value in stored.items()}
        scale = values["norm.weight"] / (values["norm.running_var"] + head.norm.eps).sqrt()
        shift = values["norm.bias"] - values["norm.running_mean"] * scale
        # Subtracted in the stored precision, as published figures were.
        weight = (stored["conv.weight"][1] - stored["conv.weight"][0]).double().flatten()
        bias = (stored["conv.bias"][1] - stored["conv.bias"][0]).double()
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
            self.register_buffer(name, value.to(dtype))

    def forward(self, pre_logits: Tensor, logits: Tensor | None = None) -> Tensor:
        """Maps pre-logits (N, C, h, w) to logits (N, 2, h, w) whose first channel is 0."""
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
        """Maps (P, C) to (P,) without a temporary map of the input's size."""
        difference = pixels.new_empty(len(pixels))
        clamped = pixels.new_empty(min(_BLOCK, len(pixels)), pixels.shape[1])
        for block, out in zip(pixels.split(_BLOCK), difference.split(_BLOCK), strict=True):
            part = clamped[: len(block)]
            torch.clamp(block, self.low, self.high, out=part)
            torch.mv(part, self.weight, out=out)
        return difference.add_(self.bias)


@torch.no_grad()
def round_kernels(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Rounds the kernels of every Conv2d to values of ``dtype``; they stay in their own dtype.

    Rounding each tap to the nearest value changes a kernel's sum by up to half a percent of its
    largest tap. Images are smooth, so that error is the same at every pixel, adds up over layers
    and moves class boundaries: it is most of what bfloat16 costs (systematic error of weight
    quantisation: Nagel et al., Data-Free Quantization, ICCV 2019, section 3.2). Here each tap's
    rounding error is handed on to the next smaller tap, whose grid is finer, so that the sum
    keeps nearly all its digits.

    Args:
        network: Its BatchNorm is folded already; changed in place.
        dtype: ``torch.bfloat16`` or ``torch.float16``.

    Returns:
        The same network.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.copy_(rounded_kernel(module.weight, dtype))
    return network


def rounded_kernel(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The kernel (O, I, h, w) rounded by error diffusion over its h x w taps, in its own dtype."""
    taps = weight.double().flatten(2)
    order = taps.abs().argsort(2, descending=True)
    rounded = torch.empty_like(taps)
    error = torch.zeros_like(taps[..., :1])
    for place in order.split(1, 2):
        wanted = taps.gather(2, place) + error
        nearest = wanted.to(dtype).double()
        rounded.scatter_(2, place, nearest)
        error = wanted - nearest
    return rounded.view_as(weight).to(weight.dtype)

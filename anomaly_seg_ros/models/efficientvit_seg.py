# SPDX-License-Identifier: Apache-2.0
"""EfficientViT for dense prediction: convolutions and multi-scale linear attention.

Source: Cai et al., "EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense
Prediction" (ICCV 2023), sections 3.1 to 3.3. Softmax attention compares every pixel with every
other; with ReLU as the kernel, the sums over the keys can be formed once for all queries, so the
cost is linear in the number of pixels. What that attention lacks in local detail comes from
depthwise convolutions, in and around it. Parameter names follow the public checkpoints, so these
load strictly.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_seg_ros.contract import NetworkOutput, SegmentationNetwork
from anomaly_seg_ros.models.outlier_branch import build_outlier_head

_EXPANSION = 4
# Pixels around each token that the second scale of the attention sums up.
_AGGREGATION = 5
# Keeps the attention finite where ReLU left nothing of a query; too small for float16. As a bound:
# exporters to ONNX remove the addition of a number that is nearly 0.
_EPS = 1e-15
_CLASSIFIER = "head.output_ops.0.op_list.1.conv"


@dataclass(frozen=True)
class Variant:
    """One size of the network.

    Attributes:
        widths: Channels at strides 2 (the stem), 4, 8, 16 and 32.
        depths: Blocks there; at strides 16 and 32 those with attention.
        attention_dim: Channels of each attention head.
        head_width: Channels of the segmentation head, which classifies four times as many.
        head_depth: Its blocks.
    """

    widths: tuple[int, int, int, int, int]
    depths: tuple[int, int, int, int, int]
    attention_dim: int
    head_width: int
    head_depth: int


VARIANTS: dict[str, Variant] = {
    "b0": Variant((8, 16, 32, 64, 128), (1, 2, 2, 2, 2), 16, 32, 1),
    "b1": Variant((16, 32, 64, 128, 256), (1, 2, 3, 3, 4), 16, 64, 3),
    "b2": Variant((24, 48, 96, 192, 384), (1, 3, 4, 4, 6), 32, 96, 3),
    "b3": Variant((32, 64, 128, 256, 512), (1, 4, 6, 6, 9), 32, 128, 3),
}


class LinearAttention(nn.Module):
    """Attention with a ReLU kernel on two scales (section 3.1, Eq. 2 and 3).

    Args:
        channels: Of input and output; a multiple of ``dim``.
        dim: Channels of each head.
    """

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        tokens = 3 * channels
        self.qkv = _conv(channels, tokens, norm=False, activation=False)
        near = nn.Conv2d(
            tokens, tokens, _AGGREGATION, 1, _AGGREGATION // 2, groups=tokens, bias=False
        )
        mixed = nn.Conv2d(tokens, tokens, 1, groups=tokens // dim, bias=False)
        self.aggreg = nn.ModuleList([nn.Sequential(near, mixed)])
        self.proj = _conv(2 * channels, channels, activation=False)

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape (N, C, h, w)."""
        qkv = self.qkv(x)
        qkv = torch.cat([qkv, *(aggregate(qkv) for aggregate in self.aggreg)], 1)
        heads = qkv.unflatten(1, (-1, 3 * self.dim)).flatten(3)
        with _full_precision(x):
            attended = linear_attention(*heads.float().split(self.dim, 2))
        return self.proj(attended.flatten(1, 2).unflatten(2, x.shape[2:]).to(x.dtype))


def linear_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention whose similarity of a query and a key is ``relu(q) . relu(k)``.

    In float32: sums over thousands of pixels lose their digits in half precision.

    Args:
        queries: (N, heads, d, P) float32, P pixels.
        keys: The same shape.
        values: The same shape.

    Returns:
        (N, heads, d, P), the mean of the values weighted by similarity; 0 where a query is
        similar to no key.
    """
    queries, keys = F.relu(queries), F.relu(keys)
    weighted = (values @ keys.transpose(-1, -2)) @ queries
    total = keys.sum(-1).unsqueeze(-2) @ queries
    return weighted / total.clamp(min=_EPS)


class EfficientViTSeg(SegmentationNetwork):
    """EfficientViT-B0 to B3 with the segmentation head of the paper (section 3.2).

    The pre-logits are the activations that the last 1x1 convolution reads, at stride 8.

    Args:
        num_classes: K.
        variant: ``b0``, ``b1``, ``b2`` or ``b3``.
        outlier_head: See :func:`~anomaly_seg_ros.models.outlier_branch.build_outlier_head`.
        abstention: The last layer has K + 1 outputs, of which the first K are the logits.

    Raises:
        ValueError: Unknown variant.
    """

    output_stride = 8
    size_multiple = 32
    bf16 = False  # changes 1 to 4 % of the labels: docs/models.md
    trunk = ("backbone",)
    trainable_parts = MappingProxyType(
        {
            "last_layer": (_CLASSIFIER,),
            # What follows the sum of the three strides.
            "classification_head": ("head.middle", "head.output_ops"),
            "decoder": ("head",),
            # The stages with attention, at strides 16 and 32.
            "upper": ("backbone.stages.2", "backbone.stages.3", "head"),
        }
    )

    def __init__(
        self,
        num_classes: int = 19,
        variant: str = "b0",
        outlier_head: bool | Mapping[str, Any] = False,
        abstention: bool = False,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant {variant!r}, expected one of {', '.join(VARIANTS)}")
        size = VARIANTS[variant]
        self.num_classes = num_classes
        self.abstention = abstention
        self.pre_logits_channels = _EXPANSION * size.head_width
        self.backbone = _Backbone(size)
        self.head = _Head(size, num_classes + int(abstention))
        self.feature_layers = {
            f"backbone.stages.{stage}": size.widths[stage + 1] for stage in (1, 2, 3)
        }
        self.outlier_head = build_outlier_head(self, outlier_head)

    def forward(self, images: Tensor) -> NetworkOutput:
        """Runs the network.

        Args:
            images: (N, 3, H, W), normalised; H and W multiples of 32.

        Returns:
            Outputs at (H / 8, W / 8).
        """
        return self.outputs(self.head(self.backbone(images)))

    def classify(self, pre_logits: Tensor) -> Tensor:
        """Maps pre-logits (N, C, h, w) to logits (N, K, h, w)."""
        return self.all_outputs(pre_logits)[:, : self.num_classes]

    def all_outputs(self, pre_logits: Tensor) -> Tensor:
        """Maps pre-logits (N, C, h, w) to all outputs: (N, K or K + 1, h, w)."""
        return self.get_submodule(_CLASSIFIER)(pre_logits)


class _Backbone(nn.Module):
    def __init__(self, size: Variant) -> None:
        super().__init__()
        stem, *widths = size.widths
        local = (_Residual(_separable(stem)) for _ in range(size.depths[0]))
        self.input_stem = _listed(_conv(3, stem, 3, stride=2), *local)
        self.stages = nn.ModuleList()
        before = stem
        for stage, (width, depth) in enumerate(zip(widths, size.depths[1:], strict=True)):
            attends = stage > 1
            down = _named(main=_inverted(before, width, stride=2, few_norms=attends))
            blocks = [
                _attention_block(width, size.attention_dim)
                if attends
                else _Residual(_inverted(width, width))
                # Where there is no attention, the block that strides counts, too.
                for _ in range(depth if attends else depth - 1)
            ]
            self.stages.append(_listed(down, *blocks))
            before = width

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps (N, 3, H, W) to the features at strides 8, 16 and 32."""
        x = self.input_stem(images)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features[1:]


class _Head(nn.Module):
    def __init__(self, size: Variant, outputs: int) -> None:
        super().__init__()
        width = size.head_width
        # From the coarsest; as in the public checkpoints, where only the finest has no list.
        c8, c16, c32 = (_conv(c, width, activation=False) for c in size.widths[2:])
        self.input_ops = nn.ModuleList([_listed(c32), _listed(c16), c8])
        self.middle = _listed(
            *(_Residual(_inverted(width, width)) for _ in range(size.head_depth))
        )
        expand = _conv(width, _EXPANSION * width)
        classify = _named(conv=nn.Conv2d(_EXPANSION * width, outputs, 1))
        self.output_ops = nn.ModuleList([_listed(expand, classify)])

    def forward(self, features: list[Tensor]) -> Tensor:
        """Maps the features at strides 8, 16 and 32 to the pre-logits at stride 8."""
        coarsest_first = zip(self.input_ops, reversed(features), strict=True)
        x32, x16, x8 = (project(x) for project, x in coarsest_first)
        x = self.middle(_resize_to(x32, x8) + _resize_to(x16, x8) + x8)
        return self.get_submodule("output_ops.0.op_list.0")(x)


class _Residual(nn.Module):
    """Adds its input to what the block makes of it."""

    def __init__(self, main: nn.Module) -> None:
        super().__init__()
        self.main = main

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x) + x


def _attention_block(channels: int, dim: int) -> nn.Sequential:
    """Attention for the context, then a convolutional block for local detail (section 3.2)."""
    return _named(
        context_module=_Residual(LinearAttention(channels, dim)),
        local_module=_Residual(_inverted(channels, channels, few_norms=True)),
    )


def _inverted(c_in: int, c_out: int, stride: int = 1, few_norms: bool = False) -> nn.Sequential:
    """Inverted bottleneck (MBConv): 1x1 to four times the width, depthwise 3x3, 1x1.

    Args:
        c_in: Channels of the input.
        c_out: Channels of the output.
        stride: The depthwise convolution's.
        few_norms: Only the last convolution has a norm; the others have a bias instead.
    """
    inner = _EXPANSION * c_in
    norm = not few_norms
    return _named(
        inverted_conv=_conv(c_in, inner, norm=norm, bias=few_norms),
        depth_conv=_conv(inner, inner, 3, stride, groups=inner, norm=norm, bias=few_norms),
        point_conv=_conv(inner, c_out, activation=False),
    )


def _separable(channels: int) -> nn.Sequential:
    """Depthwise separable 3x3 convolution."""
    return _named(
        depth_conv=_conv(channels, channels, 3, groups=channels),
        point_conv=_conv(channels, channels, activation=False),
    )


def _conv(
    c_in: int,
    c_out: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    norm: bool = True,
    bias: bool = False,
    activation: bool = True,
) -> nn.Sequential:
    """Convolution, BatchNorm and Hardswish, of which the last two can be left out."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=bias)
    layers: dict[str, nn.Module] = {"conv": conv}
    if norm:
        layers["norm"] = nn.BatchNorm2d(c_out)
    if activation:
        layers["act"] = nn.Hardswish()
    return _named(**layers)


def _named(**modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(modules))


def _listed(*modules: nn.Module) -> nn.Sequential:
    """A sequence under the name that the public checkpoints give it."""
    return _named(op_list=nn.Sequential(*modules))


def _full_precision(x: Tensor) -> contextlib.AbstractContextManager:
    """Turns autocast off where it is on, so that exported graphs know nothing of it."""
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()


def _resize_to(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bicubic", align_corners=False)

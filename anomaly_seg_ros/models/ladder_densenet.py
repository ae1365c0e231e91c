# SPDX-License-Identifier: Apache-2.0
"""LDN-121: a ladder-style DenseNet, the second paper's network for StreetHazards and SMIYC.

Source: Kreso et al., "Efficient Ladder-style DenseNets for Semantic Segmentation of Large Images"
(IEEE T-ITS 2021); the outlier head: Grcic et al., "DenseHybrid" (ECCV 2022, TPAMI 2024). The
parameter names are those of DenseHybrid's releases, so these load strictly.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_seg_ros.contract import NetworkOutput, SegmentationNetwork
from anomaly_seg_ros.models.densenet import DenseNet121, bn_relu_conv
from anomaly_seg_ros.models.outlier_branch import build_outlier_head

_PYRAMID_CHANNELS = 512
_PYRAMID_ROWS = (8, 4, 2, 1)
# Width of the ladder behind each step, from stride 16 to stride 4.
_LADDER_CHANNELS = (256, 256, 128)
# What the forward pass uses of a ladder step.
_STEP_PARTS = ("bottleneck", "blend_conv")


def _ladder_paths(*steps: int) -> tuple[str, ...]:
    return tuple(
        f"upsample.upsample_layers.upsample_{step}.{part}"
        for step in steps
        for part in _STEP_PARTS
    )


_DECODER = ("spp", *_ladder_paths(0, 1, 2), "logits")


class SpatialPyramidPooling(nn.Module):
    """Averages over grids of 8, 4, 2 and 1 rows of near-square cells, joined with the input.

    The grids divide the whole image, so the output depends on the crop.
    """

    def __init__(self, c_in: int, channels: int) -> None:
        super().__init__()
        level_channels = channels // len(_PYRAMID_ROWS)
        levels = {
            f"spp{index}": bn_relu_conv(channels, level_channels)
            for index in range(len(_PYRAMID_ROWS))
        }
        self.spp = nn.ModuleDict(
            {
                "spp_bn": bn_relu_conv(c_in, channels),
                **levels,
                "spp_fuse": bn_relu_conv(2 * channels, channels),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, c_in, h, w) to (N, channels, h, w)."""
        reduced = self.spp["spp_bn"](x)
        joined = [reduced]
        for index, rows in enumerate(_PYRAMID_ROWS):
            joined.append(grid_level(reduced, rows, self.spp[f"spp{index}"]))
        return self.spp["spp_fuse"](torch.cat(joined, 1))


class LadderStep(nn.Module):
    """One step up the ladder: upsample, add the trunk's features, blend with a 3x3 convolution.

    ``logits_aux`` is part of the public state dicts; their training does not use its output.
    """

    def __init__(self, c_in: int, c_skip: int, c_out: int) -> None:
        super().__init__()
        self.bottleneck = bn_relu_conv(c_skip, c_in)
        self.blend_conv = bn_relu_conv(c_in, c_out, kernel=3)
        self.logits_aux = bn_relu_conv(c_in, 1, bias=True)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Maps (N, c_in, h, w) and a skip (N, c_skip, h', w') to (N, c_out, h', w')."""
        return self.blend_conv(_resize_to(x, skip) + self.bottleneck(skip))


class LadderDenseNet121(SegmentationNetwork):
    """DenseNet-121, spatial pyramid pooling and a ladder of three steps to stride 4.

    The public releases take images in [0, 1] without further normalisation. DenseNet's ImageNet
    weights fit ``backbone``: see :func:`~anomaly_seg_ros.models.densenet.remap_imagenet_keys`.

    Args:
        num_classes: K.
        outlier_head: See :func:`~anomaly_seg_ros.models.outlier_branch.build_outlier_head`.
        abstention: The last layer has K + 1 outputs (PEBAL), of which the first K are returned.
    """

    output_stride = 4
    size_multiple = 32
    pre_logits_channels = _LADDER_CHANNELS[-1]
    trunk = ("backbone",)
    trainable_parts = MappingProxyType(
        {
            "last_layer": ("logits.conv",),
            "classification_head": (*_ladder_paths(2), "logits"),
            "decoder": _DECODER,
            # The trunk's blocks at strides 16 and 32.
            "upper": (
                "backbone.features.denseblock3",
                "backbone.features.transition3",
                "backbone.features.denseblock4",
                *_DECODER,
            ),
            # Without the auxiliary classifiers, which the forward pass does not use.
            "all": ("backbone", *_DECODER),
        }
    )

    def __init__(
        self,
        num_classes: int = 19,
        outlier_head: bool | Mapping[str, Any] = False,
        abstention: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.abstention = abstention
        self.backbone = DenseNet121()
        *c_skips, c_deepest = self.backbone.out_channels
        self.spp = nn.ModuleDict({"spp": SpatialPyramidPooling(c_deepest, _PYRAMID_CHANNELS)})
        widths = (_PYRAMID_CHANNELS, *_LADDER_CHANNELS)
        steps = {
            f"upsample_{index}": LadderStep(widths[index], c_skip, widths[index + 1])
            for index, c_skip in enumerate(reversed(c_skips))
        }
        self.upsample = nn.ModuleDict({"upsample_layers": nn.ModuleDict(steps)})
        self.logits = bn_relu_conv(widths[-1], num_classes + abstention, bias=True)
        self.feature_layers = {
            f"backbone.features.denseblock{number}": channels
            for number, channels in enumerate(self.backbone.out_channels, 1)
        }
        self.logits_ood = build_outlier_head(self, outlier_head)

    @property
    def outlier_head(self) -> nn.Module | None:  # type: ignore[override]
        """The head under the contract's name; its parameters keep their public one."""
        return self.logits_ood

    def forward(self, images: Tensor) -> NetworkOutput:
        """Runs the network.

        Args:
            images: (N, 3, H, W), scaled as the metadata says; H and W multiples of 32.

        Returns:
            Pre-logits (N, 128, H / 4, W / 4), logits (N, K, H / 4, W / 4), and outlier logits
            (N, 2, H / 4, W / 4).
        """
        *skips, deepest = self.backbone(images)
        x = self.spp["spp"](deepest)
        steps = self.upsample["upsample_layers"].children()
        for step, skip in zip(steps, reversed(skips), strict=True):
            x = step(x, skip)
        return self.outputs(x)

    def classify(self, pre_logits: Tensor) -> Tensor:
        """Maps pre-logits (N, 128, h, w) to logits (N, K, h, w)."""
        return self.all_outputs(pre_logits)[:, : self.num_classes]

    def all_outputs(self, pre_logits: Tensor) -> Tensor:
        """Maps pre-logits (N, 128, h, w) to all outputs: (N, K or K + 1, h, w)."""
        return self.logits(pre_logits)


def _resize_to(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def grid_level(x: Tensor, rows: int, layer: nn.Module) -> Tensor:
    """Averages over near-square cells, maps them, and interpolates back.

    Args:
        x: (N, C, h, w).
        rows: Rows of the grid, which has ``max(1, round(rows * w / h))`` columns (half to even).
        layer: Works on each cell by itself (1x1 convolutions, BatchNorm): (N, C, ...) to
            (N, C', ...).

    Returns:
        (N, C', h, w).
    """
    height, width = x.shape[-2:]
    # BatchNorm in train mode must see each cell once.
    if torch.compiler.is_compiling() and not layer.training:
        level = traceable_cells(x, rows, layer)
    else:
        columns = max(1, round(rows * width / height))
        level = layer(F.adaptive_avg_pool2d(x, (rows, columns)))
    return F.interpolate(level, size=(height, width), mode="bilinear", align_corners=False)


def traceable_cells(x: Tensor, rows: int, layer: nn.Module) -> Tensor:
    """The mapped cells of :func:`grid_level`, interpolated along the columns only.

    Args:
        x: (N, C, h, w).
        rows: Rows of the grid.
        layer: See :func:`grid_level`.

    Returns:
        (N, C', rows, w).
    """
    height, width = x.shape[-2:]
    # Numbers that depend on sizes stay tensors: Python numbers would become conditions on sizes.
    one = torch.ones((), device=x.device)
    columns = torch.round(one * rows * width / height).clamp(min=1)
    column = torch.arange(width, device=x.device)
    source = ((column + 0.5) * columns / width - 0.5).clamp(min=0)
    left = source.floor()
    right = torch.minimum(left + 1, columns - 1)
    weight = (source - left).to(x.dtype)

    cells = torch.cat([left, right])
    row_means = _cell_means(height, one * rows, torch.arange(rows, device=x.device))
    column_means = _cell_means(width, columns, cells)
    pooled = row_means.t().to(x.dtype) @ x @ column_means.to(x.dtype)
    mapped = layer(pooled)
    at_left, at_right = mapped[..., :width], mapped[..., width:]
    return at_left + weight * (at_right - at_left)


def _cell_means(length: int, cells: Tensor, which: Tensor) -> Tensor:
    """Matrix that averages entries over cells, divided as by ``adaptive_avg_pool1d``.

    Args:
        length: n, number of entries.
        cells: () float, number of cells.
        which: (m,) indices of cells.

    Returns:
        (n, m) float32: entry times matrix is the mean of each cell.
    """
    entry = torch.arange(length, device=which.device)[:, None]
    first = torch.floor(which * length / cells)
    end = torch.ceil((which + 1) * length / cells)
    return ((entry >= first) & (entry < end)) / (end - first)

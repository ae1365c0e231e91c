# SPDX-License-Identifier: Apache-2.0
"""Bringing logits, labels and outlier masks to a common grid."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.labels import IGNORE_INDEX

GRIDS = ("label", "logits")
MASK_MODES = ("nearest", "area")


class Pixels(NamedTuple):
    """Outputs and ground truth on one grid.

    Attributes:
        logits: (N, K, h, w) float.
        ood_logits: (N, 2, h, w) float, or None without an outlier head.
        labels: (N, h, w) int64 trainIds, 255 = ignore.
        ood_mask: (N, h, w) uint8: 0 inlier, 1 outlier, 255 ignore.
    """

    logits: Tensor
    ood_logits: Tensor | None
    labels: Tensor
    ood_mask: Tensor

    @property
    def labelled(self) -> Tensor:
        """(N, h, w) bool: inlier pixels with a class."""
        return (self.labels != IGNORE_INDEX) & (self.ood_mask == 0)

    @property
    def outlier(self) -> Tensor:
        """(N, h, w) bool."""
        return self.ood_mask == 1


def on_grid(
    output: NetworkOutput,
    labels: Tensor,
    ood_mask: Tensor,
    grid: str,
    align_corners: bool = False,
    mask_to_grid: str = "nearest",
    min_coverage: float = 0.5,
) -> Pixels:
    """Brings output and ground truth to the grid of the labels or of the logits.

    Args:
        output: Network output.
        labels: (N, H, W) int64.
        ood_mask: (N, H, W) uint8.
        grid: ``label`` upsamples the logits bilinearly; ``logits`` downsamples labels (nearest
            neighbour) and mask to the logits before the last upsampling.
        align_corners: How to upsample, as set by the network, see
            :class:`~anomaly_seg_ros.contract.SegmentationNetwork`. True for DeepLabV3+ with
            WideResNet38 or ResNet101, as in the public codes, and False for the others.
        mask_to_grid: See :func:`reduce_mask`.
        min_coverage: See :func:`reduce_mask`.
    """
    if grid == "label":
        size = labels.shape[-2:]
        logits = resize_logits(output.logits, size, align_corners)
        ood_logits = output.ood_logits
        if ood_logits is not None:
            ood_logits = resize_logits(ood_logits, size, align_corners)
        return Pixels(logits, ood_logits, labels, ood_mask)
    size = output.logits.shape[-2:]
    return Pixels(
        output.logits,
        output.ood_logits,
        nearest(labels, size),
        reduce_mask(ood_mask, size, mask_to_grid, min_coverage),
    )


def resize_logits(logits: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """Resamples (N, C, h, w) bilinearly to (N, C, *size), if the size differs."""
    if logits.shape[-2:] == size:
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)


def nearest(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Samples (N, H, W) of any dtype at the cell centres of an (h, w) grid."""
    height, width = values.shape[-2:]
    if (height, width) == tuple(size):
        return values
    rows = (torch.arange(size[0], device=values.device) + 0.5) * (height / size[0])
    columns = (torch.arange(size[1], device=values.device) + 0.5) * (width / size[1])
    return values[:, rows.long()[:, None], columns.long()]


def reduce_mask(
    ood_mask: Tensor, size: tuple[int, int], mode: str = "nearest", min_coverage: float = 0.5
) -> Tensor:
    """Brings an outlier mask to a coarser grid.

    ``nearest`` is our interpretation of "the OoD mask at 1/4 resolution" in the first paper. It
    samples, so objects smaller than a cell may be lost, depending on their position. ``area``
    uses the outlier share of each cell: with a low ``min_coverage`` no object is lost, and with
    the default 0.5 only cells that are mostly outlier count.

    Args:
        ood_mask: (N, H, W) uint8: 0 inlier, 1 outlier, 255 ignore.
        size: (h, w).
        mode: ``nearest`` or ``area``.
        min_coverage: For ``area``, a cell is outlier from this share on, in (0, 1]. Otherwise it
            is inlier if at least half of it is, and ignored if not.

    Returns:
        (N, h, w) uint8.
    """
    if mode == "nearest" or ood_mask.shape[-2:] == tuple(size):
        return nearest(ood_mask, size)
    outlier = F.adaptive_avg_pool2d((ood_mask == 1).float(), size)
    inlier = F.adaptive_avg_pool2d((ood_mask == 0).float(), size)
    reduced = torch.full_like(outlier, IGNORE_INDEX, dtype=torch.uint8)
    reduced[inlier >= 0.5] = 0
    # Tolerance for rounding errors in the shares.
    reduced[outlier >= min_coverage - 1e-6] = 1
    return reduced

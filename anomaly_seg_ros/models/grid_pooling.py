"""Averages over the cells of a grid whose number of columns depends on the image's shape.

A network exported for any image size cannot hold a tensor of (rows, columns) cells when columns
is a rounded function of that size. :func:`traceable_cells` therefore gives every column of the
output its own copy of the two cells that bilinear interpolation reads there, so that all shapes
are multiples of the image's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def grid_level(x: Tensor, rows: int, layer: nn.Module) -> Tensor:
    """Averages over near-square cells, maps them, and interpolates back.

    Args:
        x: (N, C, h, w).
        rows: Of the grid; it has ``max(1, round(rows * w / h))`` columns, round half to even.
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
        rows: Of the grid.
        layer: As for :func:`grid_level`.

    Returns:
        (N, C', rows, w).
    """
    height, width = x.shape[-2:]
    # Numbers that depend on sizes stay tensors: Python's would become conditions on the sizes.
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
        which: (m,) cells asked for.

    Returns:
        (n, m) float32: entry times matrix is the mean of each cell.
    """
    entry = torch.arange(length, device=which.device)[:, None]
    first = torch.floor(which * length / cells)
    end = torch.ceil((which + 1) * length / cells)
    return ((entry >= first) & (entry < end)) / (end - first)

# SPDX-License-Identifier: Apache-2.0
"""Runs a network over overlapping tiles, one after another, and stitches its outputs.

Every cell of the stitched logits comes from one tile: overlapping tiles are cut in the middle of
the overlap. That drops the values near a tile's border, which are wrong because the tile sees
padding where the frame goes on. If half the overlap covers the receptive field's radius, the
stitched logits equal those of one pass everywhere; with a smaller overlap they do wherever the
radius stays within the tile. Blending the overlap would hide the seams better, but mix wrong
values into right ones.

Tiles begin on multiples of the network's strides, so that its inner grids lie as in one pass.

A network that pools over the whole image (the image branch of DeepLab's ASPP) differs in every
pixel, by design: to it each tile is an image of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.inference.preprocessing import Framing


class Span(NamedTuple):
    """One tile along one axis, in pixels.

    Attributes:
        start, stop: The part that the network sees.
        keep_start, keep_stop: The part of its output that is kept.
    """

    start: int
    stop: int
    keep_start: int
    keep_stop: int


def spans(length: int, tile: int, overlap: int, multiple: int) -> list[Span]:
    """Lays tiles along one axis: as few as cover it, evenly spread, the last one at its end.

    Args:
        length: Length of the axis, a multiple of ``multiple``.
        tile: Length of a tile, a multiple of ``multiple``; clipped to ``length``.
        overlap: Minimum overlap of neighbours in pixels; at most ``tile - multiple``.
        multiple: Tiles begin on multiples of this.

    Returns:
        Spans in order; the parts that they keep cover the axis once.
    """
    if length <= tile:
        return [Span(0, length, 0, length)]
    step = (tile - overlap) // multiple * multiple
    steps = -(-(length - tile) // step)
    # Evenly, because whole steps and a short last one would waste overlap at the end.
    slots = (length - tile) // multiple
    starts = [multiple * (slots * i // steps) for i in range(steps + 1)]
    cuts = [(left + tile + right) // 2 for left, right in itertools.pairwise(starts)]
    return [
        Span(start, start + tile, *kept)
        for start, kept in zip(starts, itertools.pairwise([0, *cuts, length]), strict=True)
    ]


def run_in_tiles(
    network: Callable[[slice, slice], NetworkOutput], size: tuple[int, int], framing: Framing
) -> NetworkOutput:
    """Runs a network over the tiles of one image.

    Args:
        network: Maps rows and columns of the image to the network's outputs.
        size: (H, W) of the image, multiples of ``framing.multiple``.
        framing: In mode ``tiled``.

    Returns:
        Stitched logits and outlier logits, on the grid of one pass over the whole image. The
        pre-logits, the largest of the three, are left out (an empty tensor).

    Raises:
        ParameterError: The network's logits do not lie on a grid that tiles can share.
    """
    rows, columns = (
        spans(length, tile, framing.overlap, framing.multiple)
        for length, tile in zip(size, framing.tile or size, strict=True)
    )
    whole: list[Tensor] = []
    for row, column in itertools.product(rows, columns):
        # Never bound to a name: this tile's pre-logits must be freed before the next tile runs.
        parts = _read(network(slice(row.start, row.stop), slice(column.start, column.stop)))
        strides = [_stride(part, row, column, framing.multiple) for part in parts]
        if not whole:
            whole = [_canvas(p, size, s) for p, s in zip(parts, strides, strict=True)]
        for canvas, part, stride in zip(whole, parts, strides, strict=True):
            _paste(canvas, part, row, column, stride)
        del parts, part
    return NetworkOutput(whole[0].new_empty(0), whole[0], whole[1] if len(whole) > 1 else None)


def band_height(logits: Tensor, width: int, tile: tuple[int, int]) -> int:
    """Returns the rows of logits that hold about as many pixels as one tile.

    Args:
        logits: (1, K, h, w), stitched.
        width: Width of the image in pixels.
        tile: (height, width) in pixels.
    """
    stride = width // logits.shape[-1]
    return max(1, tile[0] * tile[1] // (width * stride))


def row_bands(output: NetworkOutput, height: int | None) -> Iterator[NetworkOutput]:
    """Cuts logits and outlier logits into bands of ``height`` rows; None leaves them whole.

    A score's intermediate values are as large as its logits; in bands they stay as small as a
    tile's.
    """
    if height is None:
        yield output
        return
    for top in range(0, output.logits.shape[-2], height):
        band = slice(top, top + height)
        ood_logits = None if output.ood_logits is None else output.ood_logits[..., band, :]
        yield NetworkOutput(output.pre_logits, output.logits[..., band, :], ood_logits)


def _read(output: NetworkOutput) -> list[Tensor]:
    """The tensors of an output that are stitched."""
    return [part for part in (output.logits, output.ood_logits) if part is not None]


def _stride(part: Tensor, row: Span, column: Span, multiple: int) -> int:
    """Returns the pixels of the tile per cell of the output."""
    height, width = row.stop - row.start, column.stop - column.start
    stride = height // part.shape[-2]
    fits = (part.shape[-2] * stride, part.shape[-1] * stride) == (height, width)
    if not fits or multiple % stride:
        raise ParameterError(
            f"inference mode 'tiled': this network answers a tile of {height} x {width} with "
            f"{part.shape[-2]} x {part.shape[-1]} logits, which cannot be stitched on multiples "
            f"of {multiple} pixels; take mode 'resized' or 'full'"
        )
    return stride


def _canvas(part: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    shape = (*part.shape[:2], size[0] // stride, size[1] // stride)
    return torch.empty(
        shape, dtype=part.dtype, device=part.device, memory_format=torch.channels_last
    )


def _paste(canvas: Tensor, part: Tensor, row: Span, column: Span, stride: int) -> None:
    """Copies the kept part; both neighbours round the cut between them down to the same cell."""
    top, bottom = row.keep_start // stride, row.keep_stop // stride
    left, right = column.keep_start // stride, column.keep_stop // stride
    y, x = row.start // stride, column.start // stride
    canvas[..., top:bottom, left:right] = part[..., top - y : bottom - y, left - x : right - x]

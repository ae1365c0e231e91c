# SPDX-License-Identifier: Apache-2.0
"""Bilinear upsampling from the network's output grid: score maps, and the argmax of logits.

The argmax is the expensive one, because it needs K upsampled maps for one result. On the CPU
:func:`argmax_on_cpu` avoids most of that. ``python -m benchmarks.upsampling`` measured the times
given here.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Pixels to interpolate K logits for at once.
_CHUNK = 1 << 18
# Values that torch interpolates at once: 64 MiB of float32.
_BAND = 1 << 24
# Pixels whose running maximum stays in a core's second-level cache.
_CACHED = 1 << 16


def upsampled(score: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Resizes a map (1, h, w) float32 to (H, W), bilinearly."""
    if score.shape[-2:] == size:
        return score[0]
    if score.device.type == "cpu" and not align_corners:
        # The same weights as torch's, in less than half the time.
        return torch.from_numpy(
            cv2.resize(score[0].numpy(), size[::-1], interpolation=cv2.INTER_LINEAR)
        )
    return F.interpolate(score[None], size=size, mode="bilinear", align_corners=align_corners)[
        0, 0
    ]


def upsampled_argmax(
    logits: Tensor, size: tuple[int, int], height: int | None = None, align_corners: bool = False
) -> Tensor:
    """Argmax over classes of bilinearly upsampled logits.

    Args:
        logits: (1, K, h, w), K at most 256.
        size: (H, W) of the result.
        height: Rows of logits to upsample at once, to bound the memory; None takes as many as
            fill 64 MiB, which a GPU's cache may hold. Ignored where H is no multiple of h,
            because bands would not meet on whole rows.
        align_corners: As of ``F.interpolate``; True needs all rows at once.

    Returns:
        (H, W) uint8.
    """
    rows, columns = logits.shape[-2:]
    scale, rest = divmod(size[0], rows)
    square = not rest and size[1] == scale * columns and not align_corners
    if logits.device.type == "cpu" and square and not scale % 2:
        return torch.from_numpy(argmax_on_cpu(logits[0].float().contiguous().numpy(), scale))
    if (rows, columns) == size:
        if logits.device.type == "cpu":
            planes = logits[0].float().contiguous().numpy().reshape(logits.shape[1], -1)
            return torch.from_numpy(plane_argmax(planes)).view(size)
        return logits.argmax(1)[0].to(torch.uint8)
    # In half precision interpolated logits would tie where classes meet.
    logits = logits.float()
    if rest or align_corners:
        height = rows
    elif height is None:
        height = max(1, _BAND // (logits.shape[1] * scale * size[1]))
    if height >= rows:
        large = F.interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)
        return large.argmax(1)[0].to(torch.uint8)
    bands = []
    for top in range(0, rows, height):
        bottom = min(top + height, rows)
        first, last = max(top - 1, 0), min(bottom + 1, rows)  # interpolation looks one row further
        large = F.interpolate(
            logits[..., first:last, :],
            size=((last - first) * scale, size[1]),
            mode="bilinear",
            align_corners=False,
        )
        inner = large[..., (top - first) * scale : (bottom - first) * scale, :]
        bands.append(inner.argmax(1)[0].to(torch.uint8))
    return torch.cat(bands)


def argmax_on_cpu(logits: np.ndarray, scale: int) -> np.ndarray:
    r"""Argmax of bilinearly upsampled logits, interpolating only where classes meet.

    The logits of a pixel between the centres of four neighbouring cells are a convex combination
    of theirs: where all four have the same class c, :math:`l_c \ge l_k` holds for each and so for
    every combination. In street scenes that leaves a twentieth of the pixels to interpolate.

    Args:
        logits: (K, h, w) float32 in C order, K at most 256.
        scale: Pixels per cell along each axis; even.

    Returns:
        (h * scale, w * scale) uint8.
    """
    _, rows, columns = logits.shape
    planes = logits.reshape(len(logits), -1)
    cells = plane_argmax(planes).reshape(rows, columns)
    # Blocks of scale x scale pixels between four centres, with a border of half a block.
    corners = np.pad(cells, 1, mode="edge")
    labels = cv2.resize(
        np.ascontiguousarray(corners[:-1, :-1]),
        ((columns + 1) * scale, (rows + 1) * scale),
        interpolation=cv2.INTER_NEAREST,
    )
    blocks = labels.reshape(rows + 1, scale, columns + 1, scale)
    mixed_rows, mixed_columns = np.nonzero(mixed_blocks(corners))
    weights = _block_weights(scale)
    step = max(1, _CHUNK // (scale * scale))
    for first in range(0, len(mixed_rows), step):
        y, x = mixed_rows[first : first + step], mixed_columns[first : first + step]
        top, bottom = np.maximum(y - 1, 0) * columns, np.minimum(y, rows - 1) * columns
        left, right = np.maximum(x - 1, 0), np.minimum(x, columns - 1)
        four = np.stack([top + left, top + right, bottom + left, bottom + right])
        values = weights @ planes[:, four]  # (K, scale * scale, blocks)
        found = plane_argmax(values.reshape(len(planes), -1)).reshape(scale, scale, len(y))
        blocks[y, :, x, :] = found.transpose(2, 0, 1)
    half = scale // 2
    return np.ascontiguousarray(labels[half:-half, half:-half])


def mixed_blocks(corners: np.ndarray) -> np.ndarray:
    """Marks blocks whose four corners differ: (h, w) of any type to (h - 1, w - 1) bool."""
    a, b, c, d = corners[:-1, :-1], corners[:-1, 1:], corners[1:, :-1], corners[1:, 1:]
    return (a != b) | (a != c) | (a != d)


def plane_argmax(planes: np.ndarray) -> np.ndarray:
    """Argmax over the first axis of (K, P) float32, K at most 256; ties go to the first.

    NumPy's and torch's own argmax walk across the planes pixel by pixel and take three and twelve
    times as long.

    Returns:
        (P,) uint8.
    """
    index = np.zeros(planes.shape[1], np.uint8)
    best = np.empty(min(_CACHED, index.size), np.float32)
    higher = np.empty(best.shape, bool)
    candidate = np.empty(best.shape, np.uint8)
    for start in range(0, index.size, _CACHED):
        part, found = planes[:, start : start + _CACHED], index[start : start + _CACHED]
        top, above, number = (a[: found.size] for a in (best, higher, candidate))
        np.copyto(top, part[0])
        for label, plane in enumerate(part[1:], 1):
            np.greater(plane, top, out=above)
            np.maximum(plane, top, out=top)
            # Labels grow, so the last higher class is the argmax; no branch, no gather.
            np.multiply(above.view(np.uint8), np.uint8(label), out=number)
            np.maximum(found, number, out=found)
    return index


def _block_weights(scale: int) -> np.ndarray:
    """Bilinear weights of the four cells for each pixel of a block, (scale * scale, 4) float32."""
    along = (np.arange(scale, dtype=np.float32) + np.float32(0.5)) / np.float32(scale)
    ends = np.stack([1 - along, along])
    return np.einsum("ay,bx->yxab", ends, ends).reshape(scale * scale, 4)

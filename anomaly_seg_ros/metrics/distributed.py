"""Adds up the states of the processes of one torch.distributed job.

Every rank gets the same sum, and the sum has the digits of a single process. A group of pages at
a time goes over the wire, so memory stays bounded; it is bytes and numbers, never pickles.
"""

from __future__ import annotations

import io
import json

import numpy as np
import torch
from torch import distributed

from anomaly_seg_ros.metrics.confusion import ConfusionMatrix
from anomaly_seg_ros.metrics.exact_counts import ExactCounts
from anomaly_seg_ros.metrics.pixel_scores import PixelScores
from anomaly_seg_ros.metrics.segment import INDEX, read_page, write_pages
from anomaly_seg_ros.metrics.states import frames_from_json, frames_to_json

# Pages sent at a time: some four megabytes.
_PAGES = 64


def merge_across_ranks(
    pixels: PixelScores, group: distributed.ProcessGroup | None = None
) -> PixelScores:
    """The sum of the collections of all ranks, on every rank.

    All ranks have to call it, also those without a frame.

    Args:
        pixels: This rank's collection, which stays as it is.
        group: Of processes; the default group without it.

    Returns:
        A new collection with the limits of ``pixels``; ``pixels`` itself where
        torch.distributed is not in use.
    """
    if not _in_use():
        return pixels
    total = pixels.empty_like()
    kept = [json.loads(frames) for frames in _gather(_frames(pixels), group)]
    total.frames = (
        None if None in kept else [frame for rows in kept for frame in frames_from_json(rows)]
    )
    _merge_counts(pixels.positives, total.positives, group)
    _merge_counts(pixels.negatives, total.negatives, group)
    return total


def merge_confusion_across_ranks(
    matrix: ConfusionMatrix, group: distributed.ProcessGroup | None = None
) -> ConfusionMatrix:
    """The sum of the confusion matrices of all ranks, on every rank, as above."""
    if not _in_use():
        return matrix
    counts = torch.from_numpy(matrix.counts.copy()).to(_device(group))
    distributed.all_reduce(counts, group=group)
    total = ConfusionMatrix(matrix.num_classes)
    total.counts = counts.cpu().numpy()
    return total


def _merge_counts(
    counts: ExactCounts, total: ExactCounts, group: distributed.ProcessGroup | None
) -> None:
    """Adds the counts of every rank to ``total``."""
    present = torch.from_numpy((counts.totals > 0).astype(np.uint8)).to(_device(group))
    distributed.all_reduce(present, distributed.ReduceOp.MAX, group=group)
    pages = np.flatnonzero(present.cpu().numpy())
    for start in range(0, pages.size, _PAGES):
        wanted = pages[start : start + _PAGES].tolist()
        for content in _gather(_packed(counts, wanted), group):
            _add_packed(total, content)


def _packed(counts: ExactCounts, pages: list[int]) -> bytes:
    """Those of the pages that hold anything, behind their index and its length."""
    body = io.BytesIO()
    filled = (page for page in pages if counts.totals[page])
    index = write_pages(((page, *counts.entries(page)) for page in filled), body)
    return len(index).to_bytes(4, "little") + index.tobytes() + body.getvalue()


def _add_packed(total: ExactCounts, content: bytes) -> None:
    rows = int.from_bytes(content[:4], "little")
    body = io.BytesIO(content[4:])
    for row in np.frombuffer(body.read(rows * INDEX.itemsize), INDEX).tolist():
        total.add_page(row[0], *read_page(row, body))


def _frames(pixels: PixelScores) -> bytes:
    return json.dumps(frames_to_json(pixels.frames), allow_nan=False).encode()


def _gather(content: bytes, group: distributed.ProcessGroup | None) -> list[bytes]:
    """The bytes of all ranks, in the order of the ranks."""
    device = _device(group)
    ranks = distributed.get_world_size(group)
    size = torch.tensor([len(content)], device=device)
    sizes = [torch.empty_like(size) for _ in range(ranks)]
    distributed.all_gather(sizes, size, group=group)
    longest = max(int(s) for s in sizes)
    padded = torch.zeros(longest, dtype=torch.uint8, device=device)
    padded[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    gathered = [torch.empty_like(padded) for _ in range(ranks)]
    distributed.all_gather(gathered, padded, group=group)
    return [
        whole[: int(s)].cpu().numpy().tobytes() for whole, s in zip(gathered, sizes, strict=True)
    ]


def _in_use() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _device(group: distributed.ProcessGroup | None) -> torch.device:
    """Where the group's backend takes tensors from."""
    if distributed.get_backend(group) == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")

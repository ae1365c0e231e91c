# SPDX-License-Identifier: Apache-2.0
"""A bounded random sample of training frames' pixels, for post-hoc scores that are fitted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.errors import ParameterError


@dataclass(frozen=True)
class TrainingPixels:
    """What a network says at pixels of in-distribution images, on the CPU.

    Attributes:
        pre_logits: (n, C) float32.
        logits: (n, K) float32.
    """

    pre_logits: Tensor
    logits: Tensor

    @property
    def predicted(self) -> Tensor:
        """(n,) int64, the predicted classes."""
        return self.logits.argmax(1)


@torch.inference_mode()
def sample_pixels(
    network: nn.Module, batches: Iterable[Tensor], count: int = 50_000, seed: int = 0
) -> TrainingPixels:
    """Draws pixels of all images without replacement, each with the same probability.

    Every pixel gets a random number, and the ``count`` smallest stay. So memory is bounded by
    ``count`` and one batch, however many batches there are.

    Args:
        network: A network in eval mode.
        batches: (N, 3, H, W) inputs, as the network expects them.
        count: Pixels to keep.
        seed: Seeds the draw.

    Returns:
        ``count`` pixels of the logits' grid, or all if there are fewer. Where the pre-logits are
        coarser, a pixel has those of the cell that it lies in.

    Raises:
        ParameterError: ``count`` is below 1, or there is no batch.
    """
    if count < 1:
        raise ParameterError(f"{count} pixels to fit scores to, expected at least 1")
    generator = torch.Generator().manual_seed(seed)
    kept: tuple[Tensor, ...] | None = None
    for inputs in batches:
        output = network(inputs)
        total = output.logits[:, 0].numel()
        keys = torch.rand(total, generator=generator, dtype=torch.float64)
        keys, where = keys.topk(min(count, total), largest=False)
        found = (keys, *_at(output, where))
        if kept is not None:
            found = tuple(torch.cat(pair) for pair in zip(kept, found, strict=True))
        smallest = found[0].topk(min(count, len(found[0])), largest=False).indices
        kept = tuple(values[smallest] for values in found)
    if kept is None:
        raise ParameterError("no training frame to fit post-hoc scores to")
    return TrainingPixels(*kept[1:])


def _at(output: NetworkOutput, where: Tensor) -> tuple[Tensor, Tensor]:
    """Pre-logits and logits (m, ...) at flat positions in the logits' (N, h, w)."""
    where = where.to(output.logits.device)
    height, width = output.logits.shape[-2:]
    image, inside = where // (height * width), where % (height * width)
    row, column = inside // width, inside % width
    coarse_height, coarse_width = output.pre_logits.shape[-2:]
    cells = (image, row * coarse_height // height, column * coarse_width // width)
    pre_logits = output.pre_logits[cells[0], :, cells[1], cells[2]]
    logits = output.logits[image, :, row, column]
    return pre_logits.float().cpu(), logits.float().cpu()

# SPDX-License-Identifier: Apache-2.0
"""The sample of training pixels: uniform, bounded, repeatable, on the right cells."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from anomaly_seg_ros.contract import NetworkOutput, SegmentationNetwork
from anomaly_seg_ros.errors import ParameterError
from training.posthoc import sample_pixels


class Numbered(SegmentationNetwork):
    """Logits and pre-logits are the input itself; the latter every ``stride``-th pixel."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, images: Tensor) -> NetworkOutput:
        coarse = images[:, :2, :: self.stride, :: self.stride]
        return NetworkOutput(coarse, images)


def numbered(batches: int, shape: tuple[int, int, int] = (2, 6, 8)) -> list[Tensor]:
    """Three channels: which pixel of all, its row, its column."""
    count, height, width = shape
    found = []
    for batch in range(batches):
        number = torch.arange(count * height * width).view(shape) + batch * count * height * width
        row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        found.append(torch.stack([number, row.expand(shape), column.expand(shape)], 1).float())
    return found


def test_all_pixels_if_there_are_fewer() -> None:
    found = sample_pixels(Numbered(), numbered(3), 1000)
    assert sorted(found.logits[:, 0].tolist()) == list(range(3 * 96))
    assert torch.equal(found.pre_logits, found.logits[:, :2])


def test_every_pixel_is_as_likely_and_none_comes_twice() -> None:
    hits = torch.zeros(3 * 96)
    for seed in range(400):
        found = sample_pixels(Numbered(), numbered(3), 72, seed).logits[:, 0].long()
        assert len(found.unique()) == 72
        hits[found] += 1
    # Each is drawn with probability 1/4: 100 times, with a deviation of 8.7.
    assert (hits - 100).abs().max() < 5 * 8.7
    by_batch = hits.view(3, 96).sum(1) / hits.sum()
    torch.testing.assert_close(by_batch, torch.full((3,), 1 / 3), atol=0.01, rtol=0)


def test_the_seed_decides() -> None:
    first, again, other = (sample_pixels(Numbered(), numbered(2), 20, s) for s in (0, 0, 1))
    assert torch.equal(first.logits, again.logits)
    assert not torch.equal(first.logits, other.logits)


def test_pre_logits_are_those_of_the_pixels_cell() -> None:
    """Of a network whose classifier doubles the resolution."""
    found = sample_pixels(Numbered(2), numbered(1), 1000)
    number = found.logits[:, 0].long()
    image, row, column = number // 48, number % 48 // 8, number % 8
    assert torch.equal(found.pre_logits[:, 0].long(), image * 48 + row // 2 * 16 + column // 2 * 2)


def test_memory_is_bounded_by_the_count() -> None:
    """No tensor that lives from one batch to the next has more rows than asked for."""
    alive: list[int] = []

    def batches() -> Iterator[Tensor]:
        for batch in numbered(20):
            rows = [
                len(x)
                for x in gc.get_objects()
                if type(x) is Tensor and x.ndim == 2 and x.shape[1:] == (3,)
            ]
            alive.append(max(rows, default=0))
            yield batch

    sample_pixels(Numbered(), batches(), 30)
    assert max(alive) <= 60


def test_real_networks(network: nn.Module) -> None:
    found = sample_pixels(network, [torch.rand(1, 3, 64, 96)], 50)
    assert found.pre_logits.shape == (50, network.pre_logits_channels)
    assert found.logits.shape == (50, 19)
    assert torch.equal(found.predicted, found.logits.argmax(1))


def test_nothing_to_draw_from() -> None:
    with pytest.raises(ParameterError, match="no training frame"):
        sample_pixels(Numbered(), [])
    with pytest.raises(ParameterError, match="0 pixels"):
        sample_pixels(Numbered(), numbered(1), 0)

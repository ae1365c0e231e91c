# SPDX-License-Identifier: Apache-2.0
"""Logits, labels and masks for tests of losses; run as a script it is one rank of a distributed
backward pass.

torchrun --nproc-per-node 2 test/tiny_losses.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from anomaly_seg_ros.contract import NetworkOutput, SegmentationNetwork
from anomaly_seg_ros.system.process_group import leave_process_group
from training.losses import LOSSES, build_loss

CLASSES = 5


class Case(NamedTuple):
    """What a loss is given.

    Attributes:
        logits: (N, K, h, w), K one more for PEBAL.
        ood_logits: (N, 2, h, w).
        labels: (N, H, W) int64; every outlier and some more pixels are 255.
        ood_mask: (N, H, W) uint8 with an outlier and an ignored rim.
    """

    logits: Tensor
    ood_logits: Tensor
    labels: Tensor
    ood_mask: Tensor

    @property
    def output(self) -> NetworkOutput:
        return NetworkOutput(self.logits, self.logits, self.ood_logits)


def case(name: str, dtype: torch.dtype = torch.float64, stride: int = 2) -> Case:
    """Random outputs with class logits for the loss ``name``, and a mask with all three values."""
    generator = torch.Generator().manual_seed(0)
    channels = CLASSES + LOSSES[name].extra_logits
    logits = 3 * torch.randn(2, channels, 4, 6, generator=generator, dtype=torch.float64)
    ood_logits = 2 * torch.randn(2, 2, 4, 6, generator=generator, dtype=torch.float64)
    size = (2, 4 * stride, 6 * stride)
    labels = torch.randint(0, CLASSES, size, generator=generator)
    labels[torch.rand(size, generator=generator) < 0.2] = 255
    ood_mask = torch.zeros(size, dtype=torch.uint8)
    ood_mask[0, stride : 3 * stride, stride : 4 * stride] = 255
    ood_mask[0, stride : 3 * stride, stride + 1 : 4 * stride - 1] = 1
    ood_mask[1, 0, 0] = 1
    labels[ood_mask == 1] = 255
    return Case(logits.to(dtype), ood_logits.to(dtype), labels, ood_mask)


class TinyNetwork(SegmentationNetwork):
    """Two convolutions and an outlier head: stride 2, no BatchNorm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.classifier = nn.Conv2d(6, channels, 1)
        self.outlier_head = nn.Conv2d(6, 2, 1)

    def forward(self, images: Tensor) -> NetworkOutput:
        x = self.stem(images).relu()
        return NetworkOutput(x, self.classifier(x), self.outlier_head(x))


def uneven_batch() -> tuple[Tensor, Tensor, Tensor]:
    """Four images; of the two ranks the first has 90 outlier pixels, the second 3."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, 16, 16, generator=generator)
    labels = torch.randint(0, CLASSES, (4, 16, 16), generator=generator)
    labels[0, :9] = 255
    ood_mask = torch.zeros(4, 16, 16, dtype=torch.uint8)
    ood_mask[1, 2:11, 3:13] = 1
    ood_mask[2, 4, 4:7] = 1
    labels[ood_mask == 1] = 255
    return images, labels, ood_mask


def without_outliers_on_the_second_rank() -> tuple[Tensor, Tensor, Tensor]:
    images, labels, ood_mask = uneven_batch()
    ood_mask[2:] = 0
    return images, labels, ood_mask


BATCHES = {"uneven": uneven_batch, "one_sided": without_outliers_on_the_second_rank}


def gradients(name: str, batch: str) -> dict[str, Tensor]:
    """The loss of this rank's part of the batch (of all of it in one process) and its gradient."""
    torch.manual_seed(2)
    network = TinyNetwork(CLASSES + LOSSES[name].extra_logits)
    called: nn.Module = network
    rank, count = 0, 4
    if dist.is_initialized():
        rank, count = dist.get_rank(), 4 // dist.get_world_size()
        called = DistributedDataParallel(network, find_unused_parameters=True)
    images, labels, ood_mask = (x[rank * count :][:count] for x in BATCHES[batch]())
    terms = build_loss(name)(called(images), labels, ood_mask)
    terms.total.backward()
    total = terms.total.detach()
    if dist.is_initialized():
        dist.all_reduce(total)
        total /= dist.get_world_size()
    found = {key: p.grad for key, p in network.named_parameters() if p.grad is not None}
    return {"total": total, **found}


if __name__ == "__main__":
    dist.init_process_group("gloo")
    results = {f"{name}/{batch}": gradients(name, batch) for name in LOSSES for batch in BATCHES}
    if dist.get_rank() == 0:
        torch.save(results, Path(sys.argv[1]) / "gradients.pt")
    leave_process_group()

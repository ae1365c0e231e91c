# SPDX-License-Identifier: Apache-2.0
"""A training of seconds; run as a script it is one rank of a distributed one.

torchrun --nproc-per-node 2 test/tiny_training.py FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from anomaly_seg_ros.contract import NetworkOutput, SegmentationNetwork
from anomaly_seg_ros.models.input_scaling import InputScaling
from training.data.mixing.mixed_views import MixedBatch
from training.engine.distributed import Distributed
from training.engine.loop import LoopOptions, Trainer
from training.losses import build_loss
from training.losses.base import Objective

FIELDS: dict[str, Any] = {
    "steps": 12,
    "warmup": 2,
    "validate_every": 6,
    "checkpoint_every": 4,
    "log_every": 3,
    "precision": "fp32",
}
OPTIONS = LoopOptions(**FIELDS)
# Images of each step's batch; the ranks share them out.
SAMPLES = 4


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))


def batches(start: int, stop: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for step in range(start, stop):
        generator = torch.Generator().manual_seed(step)
        yield (
            torch.randn(SAMPLES, 3, 8, 8, generator=generator),
            torch.randint(0, 4, (SAMPLES, 6, 6), generator=generator),
        )


def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


class OpenSetNetwork(SegmentationNetwork):
    """Four classes and an outlier head, without BatchNorm: its statistics are a rank's own."""

    num_classes = 4

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.classifier = nn.Conv2d(8, 4, 1)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, images: torch.Tensor) -> NetworkOutput:
        x = self.features(images)
        return NetworkOutput(x, self.classifier(x), self.head(x))


def mixed_batches(start: int, stop: int) -> Iterator[MixedBatch]:
    """Batches whose outliers are uneven over the images: none, few, many, none."""
    for step in range(start, stop):
        generator = torch.Generator().manual_seed(step)
        images = torch.randint(0, 256, (SAMPLES, 3, 8, 8), generator=generator).byte()
        labels = torch.randint(0, 4, (SAMPLES, 8, 8), generator=generator)
        ood_mask = torch.zeros(SAMPLES, 8, 8, dtype=torch.uint8)
        ood_mask[1, 2, 3:5] = 1
        ood_mask[2, : 1 + step % 7] = 1
        labels[0, :, : step % 5] = 255
        labels[ood_mask == 1] = 255
        yield MixedBatch(images, labels, ood_mask)


def share_of(batch: MixedBatch, part: int, parts: int) -> MixedBatch:
    """One of equal parts of a batch."""
    count = SAMPLES // parts
    return MixedBatch(*(x[part * count : (part + 1) * count] for x in batch))


def train_share(folder: Path) -> nn.Module:
    """Trains on this rank's part of every batch; the whole batch in a single process."""
    device = torch.device("cpu")
    distributed = Distributed(device)
    model = OpenSetNetwork()
    objective = Objective(build_loss("dense_hybrid"), InputScaling((0.5,) * 3, (0.25,) * 3))
    share = (
        share_of(batch, distributed.rank, distributed.world_size) for batch in mixed_batches(0, 12)
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    Trainer(
        model, optimizer, objective, OPTIONS, folder, device, distributed, lambda _: {}, config={}
    ).run(share)
    if distributed.is_main:
        torch.save(model.state_dict(), folder / "weights.pt")
    distributed.close()
    return model


if __name__ == "__main__":
    train_share(Path(sys.argv[1]))

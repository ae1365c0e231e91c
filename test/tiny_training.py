"""A training of seconds; run as a script it is one rank of a distributed one.

torchrun --nproc-per-node 2 test/tiny_training.py FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from training.loop import Distributed, LoopOptions, Trainer

OPTIONS = LoopOptions(
    steps=12, warmup=2, validate_every=6, checkpoint_every=4, log_every=3, precision="fp32"
)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))


def batches(start: int, stop: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for step in range(start, stop):
        generator = torch.Generator().manual_seed(step)
        yield (
            torch.randn(4, 3, 8, 8, generator=generator),
            torch.randint(0, 4, (4, 6, 6), generator=generator),
        )


def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def train_share(folder: Path) -> nn.Module:
    """Trains on this rank's part of every batch; the whole batch in a single process.

    Without BatchNorm, whose statistics are a rank's own.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    device = torch.device("cpu")
    distributed = Distributed(device)
    rank, count = distributed.rank, 4 // distributed.world_size
    share = ((x[rank * count :][:count], y[rank * count :][:count]) for x, y in batches(0, 12))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    Trainer(
        model, optimizer, loss, OPTIONS, folder, device, distributed, lambda _: {}, config={}
    ).run(share)
    if distributed.is_main:
        torch.save(model.state_dict(), folder / "weights.pt")
    distributed.close()
    return model


if __name__ == "__main__":
    train_share(Path(sys.argv[1]))

"""A killed run continues bit for bit; several processes give the single-process gradient."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

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


def trainer(folder: Path, config: dict | None = None) -> Trainer:
    model = network()
    device = torch.device("cpu")
    return Trainer(
        model,
        torch.optim.AdamW(model.parameters(), 1e-2),
        loss,
        OPTIONS,
        folder,
        device,
        Distributed(device),
        lambda average: {"weight": float(average[0].weight.sum())},
        config or {"lr": 1e-2},
    )


def test_a_killed_run_continues_bit_for_bit(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole").run(batches(0, 12))

    class KilledError(Exception):
        pass

    def killed_after_nine() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        yield from batches(0, 9)
        raise KilledError

    with pytest.raises(KilledError):
        trainer(tmp_path / "killed").run(killed_after_nine())
    resumed = trainer(tmp_path / "killed")
    assert resumed.resume()
    assert resumed.step == 8  # the last checkpoint
    average = resumed.run(batches(8, 12))
    for key, value in whole.state_dict().items():
        assert torch.equal(value, average.state_dict()[key]), key


def test_resuming_with_other_settings_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path).run(batches(0, 12))
    with pytest.raises(ValueError, match="lr"):
        trainer(tmp_path, {"lr": 1.0}).resume()


def test_log_and_learning_rate(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.run(batches(0, 12))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [3, 6, 9, 12]
    assert [line["step"] for line in lines if "weight" in line] == [6, 12]
    factors = [line["lr_factor"] for line in lines if "lr_factor" in line]
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] == pytest.approx((1 / 12) ** 0.9)


def test_a_diverging_run_stops(tmp_path: Path) -> None:
    def bad(step: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for images, targets in batches(0, step):
            yield images * float("nan"), targets

    with pytest.raises(FloatingPointError, match="step"):
        trainer(tmp_path).run(bad(2))


def _train_rank(rank: int, folder: str, port: int) -> None:
    import os

    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    device = torch.device("cpu")
    model = _without_batchnorm()
    run = Trainer(
        model,
        torch.optim.SGD(model.parameters(), 0.1),
        loss,
        OPTIONS,
        Path(folder),
        device,
        Distributed(device),
        lambda _: {},
        {},
    )
    share = ((x[2 * rank : 2 * rank + 2], y[2 * rank : 2 * rank + 2]) for x, y in batches(0, 12))
    run.run(share)
    if rank == 0:
        torch.save(model.state_dict(), Path(folder) / "ddp.pt")
    dist.destroy_process_group()


def _without_batchnorm() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))


@pytest.mark.slow
def test_two_processes_train_like_one(tmp_path: Path) -> None:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_train_rank, (str(tmp_path / "two"), port), nprocs=2)
    two = torch.load(tmp_path / "two" / "ddp.pt", weights_only=True)
    model = _without_batchnorm()
    device = torch.device("cpu")
    Trainer(
        model,
        torch.optim.SGD(model.parameters(), 0.1),
        loss,
        OPTIONS,
        tmp_path / "one",
        device,
        Distributed(device),
        lambda _: {},
        {},
    ).run(batches(0, 12))
    for key, value in model.state_dict().items():
        torch.testing.assert_close(two[key], value, rtol=1e-5, atol=1e-6)

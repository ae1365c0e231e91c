"""A killed run continues bit for bit; several processes give the single-process gradient."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_training
import torch
from tiny_training import OPTIONS, batches, loss, network

from training.loop import Distributed, Trainer


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
        lambda average: {"weight": float(average[0].weight.detach().sum())},
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


@pytest.mark.slow
def test_two_processes_train_like_one(tmp_path: Path) -> None:
    """Under torchrun with gloo, against one process with the whole batch."""
    script = Path(tiny_training.__file__)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node", "2", str(script), str(tmp_path / "two")]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    two = torch.load(tmp_path / "two" / "weights.pt", weights_only=True)
    one = tiny_training.train_share(tmp_path / "one").state_dict()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-5, atol=1e-6)

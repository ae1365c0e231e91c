# SPDX-License-Identifier: Apache-2.0
"""Learning rates against torch's own schedulers; optimizers and run lengths by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import FIELDS, batches, loss, network
from torch.optim import lr_scheduler

from anomaly_seg_ros.errors import ParameterError
from training.engine.distributed import Distributed
from training.engine.loop import LoopOptions, Trainer
from training.engine.schedule import OPTIMIZERS, SCHEDULES, build_optimizer, steps_of

CPU = torch.device("cpu")
STEPS = 12
# (trunk, decoder), as LDN-121 is trained: the trunk at a quarter.
PEAKS = (1e-4, 4e-4)
FINAL = 1e-7


class Recorder(torch.optim.SGD):
    """Writes down the learning rates that each step is taken with."""

    def __init__(self, groups: list[dict], **_: Any) -> None:
        super().__init__(groups)
        self.rates: list[list[float]] = []

    def step(self, *arguments: Any, **named: Any) -> None:
        self.rates.append([group["lr"] for group in self.param_groups])
        super().step(*arguments, **named)


def groups(model: torch.nn.Module) -> list[dict]:
    first, *rest = model.parameters()
    return [{"params": [first], "lr": PEAKS[0]}, {"params": rest, "lr": PEAKS[1]}]


def trained_rates(folder: Path, **options: Any) -> list[list[float]]:
    model = network()
    optimizer = Recorder(groups(model))
    fields = {**FIELDS, "steps": STEPS, "warmup": 0, **options}
    distributed = Distributed(CPU)
    trainer = Trainer(
        model, optimizer, loss, LoopOptions(**fields), folder, CPU, distributed, lambda _: {}, {}
    )
    trainer.run(batches(0, STEPS))
    return optimizer.rates


def torchs_rates(build: Any) -> list[list[float]]:
    optimizer = torch.optim.SGD(groups(network()))
    scheduler = build(optimizer)
    rates = []
    for _ in range(STEPS):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("options", "build"),
    [
        (
            {"schedule": "poly", "poly_power": 0.9},
            lambda optimizer: lr_scheduler.PolynomialLR(optimizer, STEPS, 0.9),
        ),
        (
            {"schedule": "cosine", "final_lr": FINAL},
            lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, STEPS, FINAL),
        ),
        (
            {"schedule": "constant"},
            lambda optimizer: lr_scheduler.ConstantLR(optimizer, 1.0),
        ),
    ],
)
def test_schedules_are_torchs(tmp_path: Path, options: dict, build: Any) -> None:
    actual = torch.tensor(trained_rates(tmp_path, **options), dtype=torch.float64)
    expected = torch.tensor(torchs_rates(build), dtype=torch.float64)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=0)


def test_a_group_below_the_final_rate_keeps_its_own(tmp_path: Path) -> None:
    rates = trained_rates(tmp_path, schedule="cosine", final_lr=2e-4)
    assert {trunk for trunk, _ in rates} == {PEAKS[0]}
    assert rates[0][1] == PEAKS[1] > rates[-1][1] > 2e-4


def test_warmup_is_part_of_every_schedule(tmp_path: Path) -> None:
    rates = trained_rates(tmp_path, schedule="constant", warmup=4)
    assert [r[1] / PEAKS[1] for r in rates[:5]] == pytest.approx([0.25, 0.5, 0.75, 1, 1])


def test_adam_and_adamw_differ_in_their_weight_decay() -> None:
    """One step from a gradient of zero: decoupled decay shrinks, coupled decay steps by lr."""
    for name, expected in (("adamw", 2.0 * (1 - 0.1 * 0.5)), ("adam", 2.0 - 0.1)):
        weight = torch.nn.Parameter(torch.tensor([2.0]))
        group = {"params": [weight], "lr": 0.1, "weight_decay": 0.5}
        optimizer = build_optimizer([group], {"optimizer": name, "betas": [0.9, 0.99]})
        weight.grad = torch.zeros(1)
        optimizer.step()
        assert float(weight.detach()) == pytest.approx(expected, rel=1e-5)
        assert optimizer.param_groups[0]["betas"] == (0.9, 0.99)


@pytest.mark.parametrize(
    ("epochs", "frames", "steps"),
    # 20 epochs of Cityscapes' 2,975 frames at a batch of 16 are 3,718.75 batches.
    [(0.0, 2975, 700), (20.0, 2975, 3719), (0.5, 2975, 93), (1.0, 3, 1)],
)
def test_epochs_count_views_of_all_frames(epochs: float, frames: int, steps: int) -> None:
    assert steps_of({"epochs": epochs, "steps": 700, "batch_size": 16}, frames) == steps


@pytest.mark.parametrize("epochs", [-1.0, float("nan"), float("inf")])
def test_impossible_epochs(epochs: float) -> None:
    with pytest.raises(ParameterError, match=r"epochs .*: expected a number from 0"):
        steps_of({"epochs": epochs, "steps": 1, "batch_size": 1}, 10)


def test_unknown_names_and_numbers(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"schedule 'cosin', expected one of poly, cosine"):
        LoopOptions(steps=1, schedule="cosin")
    with pytest.raises(ParameterError, match=r"final_lr 0.1: expected .* 0.0004"):
        trained_rates(tmp_path, schedule="cosine", final_lr=0.1)
    with pytest.raises(ParameterError, match=r"optimizer 'sgd', expected one of adamw, adam"):
        build_optimizer([], {"optimizer": "sgd", "betas": [0.9, 0.99]})
    with pytest.raises(ParameterError, match=r"betas \[0.9, 1.0\]"):
        build_optimizer([], {"optimizer": "adam", "betas": [0.9, 1.0]})


def test_options_come_from_the_configuration() -> None:
    config = {"steps": 3, "warmup": 2, "lr": 0.1, "precision": "bf16"}
    options = LoopOptions.configured(config, precision="fp32")
    assert (options.steps, options.warmup, options.precision) == (3, 2, "fp32")


def test_every_name_is_in_the_guide() -> None:
    guide = (Path(__file__).parents[2] / "training" / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in guide for name in (*SCHEDULES, *OPTIMIZERS))

# SPDX-License-Identifier: Apache-2.0
"""A resumed run equals an uninterrupted one bit for bit; several processes give the gradient of
one; a run that goes wrong stops, says why, and leaves the last good checkpoint."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny_training
import torch
from tiny_training import (
    FIELDS,
    OpenSetNetwork,
    batches,
    loss,
    mixed_batches,
    network,
    share_of,
)
from torch import nn

from anomaly_seg_ros.errors import CheckpointError, OutputError, ParameterError, TrainingError
from anomaly_seg_ros.models.input_scaling import InputScaling
from training.data.mixing.mixed_views import MixedBatch
from training.engine import storage
from training.engine.distributed import Distributed
from training.engine.loop import LoopOptions, Trainer
from training.engine.steps import resolved_precision
from training.losses import build_loss
from training.losses.base import Objective

CPU = torch.device("cpu")


def weight_sum(average: nn.Module) -> dict[str, float]:
    return {"weight": float(average[0].weight.detach().sum())}


def trainer(
    folder: Path,
    config: dict | None = None,
    model: nn.Module | None = None,
    loss_fn: Callable = loss,
    validate: Callable = weight_sum,
    optimizer: torch.optim.Optimizer | None = None,
    **changes: Any,
) -> Trainer:
    model = network() if model is None else model
    names = ("describe_batch", "second_player")
    arguments = {name: changes.pop(name) for name in names if name in changes}
    return Trainer(
        model,
        optimizer or torch.optim.AdamW(model.parameters(), 1e-2),
        loss_fn,
        LoopOptions(**{**FIELDS, **changes}),
        folder,
        CPU,
        Distributed(CPU),
        validate,
        config or {"lr": 1e-2},
        **arguments,
    )


def noisy_loss(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Depends on random numbers, as dropout does."""
    return loss(model, (batch[0] + 0.1 * torch.randn_like(batch[0]), batch[1]))


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


class KilledError(Exception):
    pass


def killed_after(steps: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    yield from batches(0, steps)
    raise KilledError


class TestResume:
    def test_a_killed_run_continues_bit_for_bit(self, tmp_path: Path) -> None:
        whole = trainer(tmp_path / "whole", loss_fn=noisy_loss).run(batches(0, 12))
        with pytest.raises(KilledError):
            trainer(tmp_path / "killed", loss_fn=noisy_loss).run(killed_after(9))
        # What else the process draws in between must not matter.
        torch.manual_seed(99)
        resumed = trainer(tmp_path / "killed", loss_fn=noisy_loss)
        assert resumed.resume()
        assert resumed.step == 8  # the last checkpoint
        average = resumed.run(batches(8, 12))
        for key, value in whole.state_dict().items():
            assert torch.equal(value, average.state_dict()[key]), key

    def test_the_log_is_continued_without_repetition(self, tmp_path: Path) -> None:
        with pytest.raises(KilledError):
            trainer(tmp_path).run(killed_after(11))
        assert [x["step"] for x in lines_of(tmp_path)] == [3, 6, 6, 9]
        resumed = trainer(tmp_path)
        resumed.resume()
        resumed.run(batches(8, 12))
        assert [x["step"] for x in lines_of(tmp_path)] == [3, 6, 6, 9, 12, 12]

    @pytest.mark.parametrize("first", [True, False])
    def test_a_kill_before_the_first_checkpoint_repeats_nothing(
        self, tmp_path: Path, first: bool
    ) -> None:
        with pytest.raises(KilledError):
            trainer(tmp_path, validate_first=first, checkpoint_every=12).run(killed_after(8))
        resumed = trainer(tmp_path, validate_first=first, checkpoint_every=12)
        assert resumed.resume() == first  # the checkpoint of the first validation
        resumed.run(batches(0, 12))
        assert [x["step"] for x in lines_of(tmp_path) if "weight" in x] == [0, 6, 12][not first :]
        assert [x["step"] for x in lines_of(tmp_path) if "loss" in x] == [3, 6, 9, 12]

    def test_tensors_are_moved_by_their_owners_alone(self, tmp_path: Path) -> None:
        """AdamW's counts of steps stay on the CPU, whatever the device of the training."""
        trainer(tmp_path).run(batches(0, 12))
        resumed = trainer(tmp_path, best_figure="weight")
        resumed.device = torch.device("meta")
        assert resumed.resume()
        assert {x["step"].item() for x in resumed.optimizer.state.values()} == {12.0}

    def test_a_scaler_without_a_state_starts_anew(self, tmp_path: Path) -> None:
        """A run in fp16 that began on the CPU, where nothing is scaled, goes on on a GPU."""
        trainer(tmp_path, precision="fp16").run(batches(0, 12))
        resumed = trainer(tmp_path, precision="fp16")
        resumed._scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        assert resumed.resume()
        assert resumed._scaler.get_scale() == 8.0

    def test_other_settings_are_refused(self, tmp_path: Path) -> None:
        trainer(tmp_path, {"lr": 0.1, "loss": {"k": 5}}).run(batches(0, 12))
        with pytest.raises(ParameterError, match=r"\['loss.k'\]"):
            trainer(tmp_path, {"lr": 0.1, "loss": {"k": 3}}).resume()

    def test_a_damaged_checkpoint_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "last.pt").write_bytes(b"PK\x03\x04 half a file")
        with pytest.raises(CheckpointError, match=r"last\.pt"):
            trainer(tmp_path).resume()

    def test_a_checkpoint_of_another_network_is_named(self, tmp_path: Path) -> None:
        trainer(tmp_path).run(batches(0, 12))
        wider = nn.Sequential(nn.Conv2d(3, 5, 1))
        with pytest.raises(CheckpointError, match=r"last\.pt does not fit Sequential"):
            trainer(tmp_path, model=wider).resume()

    def test_a_file_that_is_no_checkpoint_of_a_training(self, tmp_path: Path) -> None:
        storage.save_atomically(network().state_dict(), tmp_path / "last.pt")
        with pytest.raises(CheckpointError, match=r"last\.pt: not the checkpoint of a training"):
            trainer(tmp_path).resume()


def test_log_and_learning_rate(tmp_path: Path) -> None:
    trainer(tmp_path).run(batches(0, 12))
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines if "loss" in line] == [3, 6, 9, 12]
    assert [line["step"] for line in lines if "weight" in line] == [6, 12]
    factors = [line["lr_factor"] for line in lines if "lr_factor" in line]
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] == pytest.approx((1 / 12) ** 0.9)


def test_the_terms_of_a_loss_are_logged_as_means(tmp_path: Path) -> None:
    class Terms(NamedTuple):
        total: torch.Tensor
        terms: dict[str, torch.Tensor]

    steps = iter(range(100))

    def with_terms(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> Terms:
        return Terms(loss(model, batch), {"part": torch.tensor(float(next(steps)))})

    trainer(tmp_path, loss_fn=with_terms).run(batches(0, 12))
    assert [x["part"] for x in lines_of(tmp_path) if "part" in x] == [1, 4, 7, 10]


def test_named_batches_keep_their_type(tmp_path: Path) -> None:
    def objective(model: nn.Module, batch: MixedBatch) -> torch.Tensor:
        assert isinstance(batch, MixedBatch)
        return model(batch.images.float())[:, 0][batch.ood_mask[:, 1:-1, 1:-1] == 1].mean() ** 2

    trainer(tmp_path, loss_fn=objective, steps=2).run(mixed_batches(0, 2))
    assert (tmp_path / "last.pt").exists()


class TestTimeLimit:
    def test_a_run_that_ends_early_validates_and_goes_on_bit_for_bit(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = trainer(tmp_path / "whole", loss_fn=noisy_loss).run(batches(0, 12))
        # Every look at the clock takes a second.
        monkeypatch.setattr("time.monotonic", itertools.count().__next__)
        limited = {"max_seconds": 5.0, "lr": 1e-2}
        first = trainer(tmp_path, limited, loss_fn=noisy_loss, max_seconds=5.0)
        first.run(batches(0, 12))
        monkeypatch.undo()
        assert first.step in (4, 5)
        assert not first.stopped
        assert [x["step"] for x in lines_of(tmp_path) if "weight" in x] == [first.step]
        resumed = trainer(tmp_path, {"max_seconds": 0.0, "lr": 1e-2}, loss_fn=noisy_loss)
        assert resumed.resume()
        average = resumed.run(batches(first.step, 12)).state_dict()
        assert all(torch.equal(value, average[key]) for key, value in whole.state_dict().items())

    @pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
    def test_a_limit_that_is_none_is_refused(self, seconds: float) -> None:
        with pytest.raises(ParameterError, match="max_seconds"):
            LoopOptions(steps=1, max_seconds=seconds)


class TestAccumulation:
    def test_equals_one_batch_for_a_mean_over_samples(self, tmp_path: Path) -> None:
        """Without BatchNorm, whose statistics are a micro-batch's own."""

        def run(folder: str, size: int) -> nn.Module:
            model = nn.Sequential(nn.Conv2d(3, 4, 3))
            nn.init.constant_(model[0].weight, 0.1)
            nn.init.zeros_(model[0].bias)
            pieces = (
                (x[i : i + size], y[i : i + size])
                for x, y in batches(0, 12)
                for i in range(0, 4, size)
            )
            optimizer = torch.optim.SGD(model.parameters(), 0.1)
            run = trainer(
                tmp_path / folder, model=model, optimizer=optimizer, accumulate=4 // size
            )
            run.run(pieces)
            assert run.step == 12
            return model

        torch.testing.assert_close(run("one", 4)[0].weight, run("four", 1)[0].weight)

    def test_is_the_mean_of_the_micro_batches(self, tmp_path: Path) -> None:
        """As the module says: not the mean over the pixels of all of them."""
        objective = Objective(build_loss("cross_entropy"), InputScaling((0.5,) * 3, (0.25,) * 3))
        batch = next(mixed_batches(4, 5))  # its first image has half of its labels only
        expected = OpenSetNetwork()
        parts = [objective(expected, share_of(batch, i, 2)).total for i in range(2)]
        (sum(parts) / 2).backward()
        model = OpenSetNetwork()
        optimizer = torch.optim.SGD(model.parameters(), 1.0)
        run = trainer(
            tmp_path,
            model=model,
            optimizer=optimizer,
            loss_fn=objective,
            validate=lambda _: {},
            accumulate=2,
            steps=1,
            warmup=0,
        )
        run.run([share_of(batch, 0, 2), share_of(batch, 1, 2)])
        step = OpenSetNetwork().classifier.weight - model.classifier.weight
        torch.testing.assert_close(step, expected.classifier.weight.grad)


class TestNotFinite:
    @staticmethod
    def turning_bad(good: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        yield from batches(0, good)
        for images, targets in batches(good, 12):
            yield images * float("nan"), targets

    def test_a_nan_loss_stops_before_it_does_harm(self, tmp_path: Path) -> None:
        run = trainer(tmp_path, describe_batch=lambda step: f"<samples of step {step}>")
        with pytest.raises(TrainingError, match=r"step 9: the loss is nan.*last\.pt") as caught:
            run.run(self.turning_bad(9))
        assert "<samples of step 9>" in str(caught.value)
        good = trainer(tmp_path / "good", steps=12)
        with pytest.raises(KilledError):
            good.run(killed_after(9))
        for mine, expected in zip(run.model.parameters(), good.model.parameters(), strict=True):
            assert torch.equal(mine, expected)
        # The last good checkpoint can be resumed, and is of a step before.
        again = trainer(tmp_path)
        assert again.resume()
        assert again.step == 8

    def test_the_terms_say_which_part_is_to_blame(self, tmp_path: Path) -> None:
        class Terms(NamedTuple):
            total: torch.Tensor
            terms: dict[str, torch.Tensor]

        def bad(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> Terms:
            total = loss(model, batch)
            return Terms(total / 0, {"good": total.detach(), "bad": total.detach() / 0})

        with pytest.raises(TrainingError, match=r"the loss is inf \(good [\d.]+, bad inf\)"):
            trainer(tmp_path, loss_fn=bad).run(batches(0, 1))

    def test_a_gradient_that_is_not_finite_stops_too(self, tmp_path: Path) -> None:
        def bad(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
            zero = model(batch[0]).sum() * 0
            return zero.sqrt()  # 0, with an infinite derivative

        run = trainer(tmp_path, loss_fn=bad)
        with pytest.raises(TrainingError, match="step 0: the norm of its gradient is nan"):
            run.run(batches(0, 1))
        for mine, start in zip(run.model.parameters(), network().parameters(), strict=True):
            assert torch.equal(mine, start)


class TestBestAndGuard:
    @staticmethod
    def falling(values: list[dict[str, float]]) -> Callable[[nn.Module], dict[str, float]]:
        remaining = iter(values)
        return lambda _: next(remaining)

    def test_the_best_validation_is_kept(self, tmp_path: Path) -> None:
        models = []

        def validate(average: nn.Module) -> dict[str, float]:
            models.append({k: v.clone() for k, v in average.state_dict().items()})
            return {"ap": [0.1, 0.3, math.nan, 0.2][len(models) - 1]}

        run = trainer(
            tmp_path, validate=validate, best_figure="ap", validate_first=True, validate_every=4
        )
        run.run(batches(0, 12))
        assert run.best["value"] == 0.3
        assert run.best["step"] == 4
        best = run.best_model()
        assert not best.training
        for key, value in best.state_dict().items():
            assert torch.equal(value, models[1][key]), key

    def test_lower_can_be_better(self, tmp_path: Path) -> None:
        figures = [{"bpd": x} for x in (5.0, 4.0, 4.5)]
        run = trainer(
            tmp_path,
            validate=self.falling(figures),
            best_figure="bpd",
            lower_is_better=True,
            validate_every=4,
        )
        run.run(batches(0, 12))
        assert run.best["step"] == 8

    def test_a_figure_that_does_not_exist_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ParameterError, match="'nonsense'; it gives weight"):
            trainer(tmp_path, best_figure="nonsense").run(batches(0, 12))

    def test_the_run_stops_when_the_guarded_figure_falls(self, tmp_path: Path) -> None:
        figures = [
            {"miou": 0.60, "ap": 0.1},
            {"miou": 0.59, "ap": 0.2},
            {"miou": 0.57, "ap": 0.9},
        ]
        options = {
            "best_figure": "ap",
            "guard_figure": "miou",
            "max_drop": 0.02,
            "validate_first": True,
            "validate_every": 2,
        }
        run = trainer(tmp_path, validate=self.falling(figures), **options)
        run.run(batches(0, 12))
        assert run.step == 4
        assert "miou fell more than 0.02" in run.stopped
        # However good its AP: a model that lost too much is never the best.
        assert run.best["step"] == 2
        resumed = trainer(tmp_path, validate=self.falling([]), **options)
        resumed.resume()
        resumed.run(batches(4, 12))
        assert resumed.step == 4

    @pytest.mark.parametrize(
        ("miou", "step", "written"),
        [([0.60, 0.59, 0.05], 4, 1), ([0.60, 0.05], 2, 0), ([0.60, 0.61, 0.59], 4, 2)],
    )
    def test_without_a_figure_the_last_model_that_passed_is_kept(
        self, tmp_path: Path, miou: list[float], step: int, written: int
    ) -> None:
        """After a fall the one before it, and else that of the end."""
        models = []

        def validate(average: nn.Module) -> dict[str, float]:
            models.append({k: v.clone() for k, v in average.state_dict().items()})
            return {"miou": miou[len(models) - 1]}

        options = {
            "guard_figure": "miou",
            "max_drop": 0.02,
            "validate_first": True,
            "validate_every": 2,
            "steps": 4,
        }
        run = trainer(tmp_path, validate=validate, **options)
        run.run(batches(0, 4))
        assert run.step == step
        assert bool(run.stopped) == (miou[-1] == 0.05)
        resumed = trainer(tmp_path, validate=validate, **options)
        resumed.resume()
        for best in (run.best_model(), resumed.best_model()):
            assert not best.training
            for key, value in best.state_dict().items():
                assert torch.equal(value, models[written][key]), key
        assert resumed.best["value"] == miou[written]

    def test_a_guard_needs_a_start(self) -> None:
        with pytest.raises(ParameterError, match="validate_first"):
            LoopOptions(steps=1, guard_figure="miou")


class TestFrozen:
    def test_frozen_parameters_and_statistics_stay(self, tmp_path: Path) -> None:
        model = network()
        model[0].requires_grad_(False)
        model[1].eval()
        start = {k: v.clone() for k, v in model.state_dict().items()}
        trained = [p for p in model.parameters() if p.requires_grad]
        run = trainer(tmp_path, model=model, optimizer=torch.optim.AdamW(trained, 1e-2))
        average = run.run(batches(0, 12))
        for state in (model.state_dict(), average.state_dict()):
            for key in ("0.weight", "0.bias", "1.running_mean", "1.num_batches_tracked"):
                assert torch.equal(state[key], start[key]), key
            assert not torch.equal(state["3.weight"], start["3.weight"])

    def test_nothing_to_train_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ParameterError, match="nothing to train"):
            trainer(tmp_path, model=network().requires_grad_(False))


class Offset:
    """A second player: shifts the images by a number that it learns from random ones."""

    def __init__(self) -> None:
        self.offset = torch.zeros(())

    def prepare(self, batch: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return batch[0] + self.offset, batch[1]

    def after_step(self, model: nn.Module, batch: tuple[torch.Tensor, ...]) -> dict:
        self.offset = self.offset + 0.1 * torch.randn(()) + model(batch[0]).detach().mean()
        return {"offset": self.offset}

    def state_dict(self) -> dict:
        return {"offset": self.offset}

    def load_state_dict(self, state: dict) -> None:
        self.offset = state["offset"]


def test_a_second_player_takes_part_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    player = Offset()
    whole = trainer(tmp_path / "whole", second_player=player).run(batches(0, 12))
    alone = trainer(tmp_path / "alone").run(batches(0, 12))
    assert not torch.equal(whole[0].weight, alone[0].weight)
    with pytest.raises(KilledError):
        trainer(tmp_path / "killed", second_player=Offset()).run(killed_after(9))
    resumed = trainer(tmp_path / "killed", second_player=(again := Offset()))
    resumed.resume()
    average = resumed.run(batches(8, 12))
    assert torch.equal(again.offset, player.offset)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, average.state_dict()[key]), key
    assert "offset" in lines_of(tmp_path / "whole")[0]


class TestFullDisk:
    def test_too_little_space_is_found_before_writing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = trainer(tmp_path)
        with pytest.raises(KilledError):
            run.run(killed_after(6))
        before = (tmp_path / "last.pt").read_bytes()
        usage = storage.shutil.disk_usage(tmp_path)
        monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: usage._replace(free=1000))
        with pytest.raises(OutputError, match=r"last\.pt.*needs .* 0\.0 MB free"):
            run.run(batches(6, 12))
        assert (tmp_path / "last.pt").read_bytes() == before

    def test_a_run_folder_that_cannot_be_made_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError, match="file/run"):
            trainer(tmp_path / "file" / "run")


def test_an_unknown_precision_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="fp64"):
        trainer(tmp_path, precision="fp64")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True}, "bf16"),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, "fp32"),
        ({}, "fp32"),
    ],
)
def test_auto_is_bf16_where_the_cpu_multiplies_it_and_the_network_stands_it(
    capabilities: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    cpu = torch.device("cpu")
    assert resolved_precision(cpu, "auto") == expected
    assert resolved_precision(cpu, "auto", network_bf16=False) == "fp32"
    assert resolved_precision(cpu, "bf16", network_bf16=False) == "bf16"


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_on_a_gpu_is_bf16_unless_it_emulates_it(
    native: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert resolved_precision(torch.device("cuda"), "auto") == expected


def test_auto_of_an_older_torch_is_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert resolved_precision(torch.device("cpu"), "auto") == "fp32"


def test_tensorboard_gets_scalars_and_pictures(tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is missing"
    )
    run = trainer(tmp_path, tensorboard=True)
    run.log.picture(0, "samples", torch.zeros(4, 6, 3, dtype=torch.uint8).numpy())
    run.run(batches(0, 12))
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [x.step for x in events.Scalars("loss")] == [3, 6, 9, 12]
    (picture,) = events.Images("samples")
    assert (picture.width, picture.height) == (6, 4)


@pytest.mark.slow
def test_two_processes_train_like_one(tmp_path: Path) -> None:
    """Under torchrun with gloo, a masked loss with uneven outliers, against one process."""
    script = Path(tiny_training.__file__)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node", "2", str(script), str(tmp_path / "two")]
    subprocess.run(command, check=True, capture_output=True, timeout=100)
    two = torch.load(tmp_path / "two" / "weights.pt", weights_only=True)
    one = tiny_training.train_share(tmp_path / "one").state_dict()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-5, atol=1e-6)
    # The log of the main rank holds the figures of the whole batch.
    losses = {
        name: [x["loss"] for x in lines_of(tmp_path / name) if "loss" in x]
        for name in ("one", "two")
    }
    assert len(losses["one"]) == 4
    assert losses["two"] == pytest.approx(losses["one"], rel=1e-4)

# SPDX-License-Identifier: Apache-2.0
"""A batch of one that BatchNorm cannot normalise is refused before anything is read."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import tiny_metadata
from torch import nn

from anomaly_seg_ros.checkpoints.loading import save_model
from anomaly_seg_ros.errors import ParameterError, TrainingError
from anomaly_seg_ros.models.registry import build_network
from training import closed_set, fine_tune
from training.engine.distributed import Distributed
from training.engine.loop import LoopOptions, Trainer
from training.engine.steps import check_batch, layer_without_variance
from training.networks import set_trainable

SHAPE = (1, 3, 64, 96)


class Pyramid(nn.Module):
    """An image pooling branch beside a convolution, as DeepLab has it."""

    def __init__(self) -> None:
        super().__init__()
        self.outlier_head = None
        self.trainable_parts = {"decoder": ("pool",)}
        self.trunk = nn.Sequential(nn.Conv2d(3, 4, 3, stride=32), nn.BatchNorm2d(4), nn.ReLU())
        self.pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.trunk(images)
        return x + self.pool(x)


def processes(count: int) -> Distributed:
    return SimpleNamespace(world_size=count)


def settings(**values: object) -> dict[str, object]:
    return {"batch_size": 1, "accumulate": 1, "crop": [64, 96], **values}


def test_the_dry_run_finds_the_layer_that_the_real_one_stops_at() -> None:
    network = Pyramid().train()
    assert layer_without_variance(network, SHAPE) == "pool.2"
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        network(torch.rand(SHAPE))
    assert layer_without_variance(network, (2, *SHAPE[1:])) is None
    assert layer_without_variance(network.eval(), SHAPE) is None


def test_a_crop_that_leaves_a_single_cell() -> None:
    trunk = Pyramid().trunk.train()
    assert layer_without_variance(trunk, (1, 3, 32, 32)) == "1"
    assert layer_without_variance(trunk, (1, 3, 32, 64)) is None


def test_the_network_is_left_as_it_was() -> None:
    network = Pyramid().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    layer_without_variance(network, (2, *SHAPE[1:]))
    layer_without_variance(network, SHAPE)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_a_network_that_cannot_run_without_memory_is_not_judged() -> None:
    class Reads(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images * float(images.mean())

    assert layer_without_variance(Reads(), SHAPE) is None


@pytest.mark.parametrize(
    ("config", "count", "words"),
    [
        ({}, 1, r"batch_size 1: layer 'pool\.2' .*batch of 1 \(1 processes x 1 .*at least 2"),
        ({"batch_size": 4}, 4, r"batch_size 4: .*\(4 processes x 1 .*at least 8"),
        ({"batch_size": 4, "accumulate": 2}, 2, r"\(2 processes x 2 .*at least 8"),
    ],
)
def test_each_process_and_micro_batch_is_a_batch_of_its_own(
    config: dict[str, object], count: int, words: str
) -> None:
    network = Pyramid().train()
    with pytest.raises(ParameterError, match=words):
        check_batch(network, settings(**config), processes(count))
    check_batch(network, settings(batch_size=2 * count * 2, accumulate=2), processes(count))


def test_statistics_that_are_kept_need_no_batch() -> None:
    network = Pyramid()
    set_trainable(network, "decoder", batchnorm="eval", frozen_parts="train")
    check_batch(network, settings(), processes(1))
    set_trainable(network, "decoder", batchnorm="train")
    with pytest.raises(ParameterError, match="or do this"):
        check_batch(network, settings(), processes(1), remedy="or do this")


@pytest.mark.parametrize("accumulate", [0, 3])
def test_a_batch_that_does_not_split(accumulate: int) -> None:
    with pytest.raises(ParameterError, match="accumulate"):
        check_batch(Pyramid(), settings(batch_size=4, accumulate=accumulate), processes(1))


def save_pooling_network(path: Path) -> Path:
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    arguments = {"num_classes": 19, "factory": "torchvision:deeplabv3_mobilenet_v3_large"}
    network = build_network("wrapped", arguments)
    metadata = tiny_metadata(
        architecture="wrapped", arguments=network.arguments, calibration={}, statistics=None
    )
    save_model(path, network, metadata)
    return path


def test_fine_tuning_refuses_before_it_reads_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_pooling_network(tmp_path / "pooling.safetensors")

    def read(*_: object) -> None:
        raise AssertionError("data was read")

    monkeypatch.setattr(fine_tune, "build_dataset", read)
    command = ["--run-dir", str(tmp_path / "run"), "--model", str(model), "--device", "cpu"]
    given = ["part=all", "batchnorm=train", "crop=[64, 96]", "batch_size=1"]
    assert fine_tune.main([*command, "--set", *given]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "batch_size 1: " in error
    assert "use a batch_size of at least 2, or batchnorm=eval" in error
    assert not (tmp_path / "run").exists()


def test_closed_set_training_refuses_before_it_reads_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--run-dir", str(tmp_path / "run"), "--data", str(tmp_path), "--device", "cpu"]
    model = save_pooling_network(tmp_path / "pooling.safetensors")
    factory = "torchvision:deeplabv3_mobilenet_v3_large"
    arguments = f"network.arguments={{factory: '{factory}'}}"
    given = [f"start={model}", "network.architecture=wrapped", arguments]
    given += ["crop=[64, 96]", "batch_size=1", "accumulate=1", "balance_classes=false"]
    assert closed_set.main([*command, "--set", *given]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"closed_set: error: batch_size 1: layer '\S+' would", error)


def test_the_loop_says_what_the_dry_run_could_not_see(tmp_path: Path) -> None:
    network = Pyramid().train()
    trainer = Trainer(
        network,
        torch.optim.SGD(network.parameters(), 0.1),
        lambda model, batch: model(batch[0]).mean(),
        LoopOptions(steps=1, precision="fp32"),
        tmp_path,
        torch.device("cpu"),
        Distributed(torch.device("cpu")),
        lambda _: {},
        config={},
    )
    with pytest.raises(TrainingError, match=r"step 0: a batch of 1 .*larger batch_size"):
        trainer.run([(torch.rand(SHAPE),)])

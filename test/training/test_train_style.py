# SPDX-License-Identifier: Apache-2.0
"""The entry: trains, is killed and resumes, and writes weights that the alignment loads."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tiny_scenes import training_data

from anomaly_seg_ros.models.efficientnet_lite import EfficientNetLite
from training import train_style
from training.data.corpora import Corpus
from training.data.style.learned import LearnedStyle
from training.engine.storage import load_checkpoint

SMALL = ("size=16", "batch_size=4", "validation_pairs=16", "workers=0", "precision=fp32")
OFTEN = ("warmup=2", "log_every=2", "checkpoint_every=4", "validate_every=4", "opponent.every=2")


def corpus(seed: int) -> Corpus:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 6, 12, 3)).astype(np.uint8)
    images = [cv2.resize(x, (120, 60), interpolation=cv2.INTER_CUBIC) for x in coarse]
    return Corpus.of_arrays("blobs", images, [np.zeros((60, 120), np.uint8) for _ in images])


@pytest.fixture(autouse=True)
def _no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn scenes and a random trunk instead of data sets and ImageNet weights."""

    def trunk(variant: str) -> EfficientNetLite:
        torch.manual_seed(5)
        return EfficientNetLite(variant)

    data = training_data(train=[corpus(1)], validation=[corpus(5)])
    monkeypatch.setattr(train_style, "TrainingData", lambda *_: data)
    monkeypatch.setattr(train_style, "load_imagenet_backbone", trunk)


def run(folder: Path, *settings: str) -> int:
    command = ["--run-dir", str(folder), "--device", "cpu"]
    return train_style.main([*command, "--set", *SMALL, *OFTEN, *settings])


def test_trains_and_writes_usable_weights(tmp_path: Path) -> None:
    assert run(tmp_path, "steps=8") == 0
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    terms = {"mse", "perceptual", "adversarial", "feature", "noise", "w", "discriminator"}
    assert terms < log[0].keys()
    figures = [line for line in log if "val_rmse" in line]
    assert [line["step"] for line in figures] == [4, 8]
    # The held-out pairs are the same every time.
    assert figures[0]["val_rmse_untouched"] == figures[1]["val_rmse_untouched"] > 1
    assert cv2.imread(str(tmp_path / "samples.png")) is not None
    style = LearnedStyle.load(tmp_path / "style_transfer.safetensors")
    averaged = load_checkpoint(tmp_path / "last.pt")["average"]
    for key, value in style.network.state_dict().items():
        torch.testing.assert_close(value, averaged[f"module.{key}"], rtol=1e-3, atol=1e-4)


def test_a_killed_run_continues_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(tmp_path / "whole", "steps=8") == 0
    calls = []

    def killed(trainer: train_style.Trainer, *_: object) -> float:
        calls.append(trainer.step)
        if trainer.step == 6:
            raise KeyboardInterrupt
        return original(trainer)

    original = train_style.Trainer._set_learning_rate
    with monkeypatch.context() as patch:
        patch.setattr(train_style.Trainer, "_set_learning_rate", killed)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            raise SystemExit(run(tmp_path / "killed", "steps=8"))
    assert calls == list(range(7))
    assert run(tmp_path / "killed", "steps=8") == 0
    whole, resumed = (load_checkpoint(tmp_path / x / "last.pt") for x in ("whole", "killed"))
    assert whole["step"] == resumed["step"] == 8
    for part in ("model", "average"):
        for key, value in whole[part].items():
            assert torch.equal(value, resumed[part][key]), key
    discriminators = (x["second_player"]["discriminator"] for x in (whole, resumed))
    for one, other in zip(*(d.values() for d in discriminators), strict=True):
        assert torch.equal(one, other)


def test_bad_settings_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert run(tmp_path, "steps=8", "size=20") == 1
    assert "size 20" in capsys.readouterr().err
    assert run(tmp_path, "steps=8", "loss.lpips=1") == 1
    assert "loss.lpips" in capsys.readouterr().err

# SPDX-License-Identifier: Apache-2.0
"""The entry that pre-trains a flow, on made-up road scenes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tiny_flow import flow
from tiny_scenes import training_data

from training import train_flow
from training.data.corpora import Corpus
from training.flow.dense_flow import load_flow

SETTINGS = [
    "steps=6", "batch_size=4", "workers=0", "crop=[16,16]", "height_range=[64,96]", "warmup=2",
    "validate_every=3", "checkpoint_every=3", "log_every=2", "validation_crops=4",
    "sample_sizes=[[16,16],[8,24]]", "tensorboard=false", "size=tiny",
    "lr=0.01", "checkpointing=false",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 200, (3, 8, 12, 3), dtype=np.uint8)
    images = [cv2.resize(x, (96, 64), interpolation=cv2.INTER_CUBIC) for x in coarse]
    corpus = Corpus.of_arrays("scenes", images, [np.zeros((64, 96), np.uint8)] * 3)
    data = training_data(train=[corpus], validation=[corpus])
    monkeypatch.setattr(train_flow, "TrainingData", lambda *_: data)


def run(folder: Path, *settings: str) -> int:
    return train_flow.main(
        ["--run-dir", str(folder), "--device", "cpu", "--set", *SETTINGS, *settings]
    )


def figures(folder: Path, key: str) -> list[float]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [line[key] for line in map(json.loads, lines) if key in line]


def test_it_trains_writes_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = tmp_path / "whole"
    assert run(whole) == 0
    assert "starts at step 0 of 6" in capsys.readouterr().out
    bits = figures(whole, "val_bits_per_dim")
    assert len(bits) == 2
    assert all(2 < b < 9 for b in bits)
    assert cv2.imread(str(whole / "samples.png")).std() > 0
    written = load_flow(whole / "flow.safetensors")
    assert written.initialised
    # The best validated weights are those in the file.
    crops = torch.stack([view for (view,) in (_crop(i) for i in range(4))])
    generator = torch.Generator().manual_seed(2026)
    with torch.no_grad():
        again = float(written.bits_per_dim(crops, generator).mean())
    assert again == pytest.approx(min(bits), abs=1e-4)

    # Cut off after the first checkpoint, then continued.
    cut = tmp_path / "cut"
    real = train_flow.SampleStream.batches

    def batches(self, start: int):
        for step, item in enumerate(real(self, start), start):
            if step == 5 and start == 0:
                raise KeyboardInterrupt
            yield item

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_flow.SampleStream, "batches", batches)
        assert run(cut) == 130
    assert run(cut) == 0
    assert "resumes at step 3 of 6" in capsys.readouterr().out
    for key, value in written.state_dict().items():
        assert torch.equal(value, load_flow(cut / "flow.safetensors").state_dict()[key]), key


def _crop(index: int) -> tuple[torch.Tensor]:
    config = {"crop": [16, 16], "height_range": [64, 96], "photometric": 0.0}
    data = train_flow.TrainingData()
    views = train_flow.views_of(data, data.validation, config, 2026)
    return (views[index][0],)


def test_it_goes_on_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = tmp_path / "start.safetensors"
    train_flow.save_flow(start, flow(), {})
    assert run(tmp_path / "run", f"start={start}", "steps=1", "lr=0.0") == 0
    assert f"goes on from {start}, DenseFlow tiny" in capsys.readouterr().out
    result = load_flow(tmp_path / "run" / "flow.safetensors").state_dict()
    assert all(torch.allclose(v, result[k]) for k, v in flow().state_dict().items())


def test_loss_is_bits_per_dimension() -> None:
    model = flow()
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    torch.manual_seed(0)
    loss = train_flow.bits_per_dim(model, (images,))
    torch.manual_seed(0)
    log_p = model.log_prob(images)
    assert float(loss.detach()) == pytest.approx(
        float(-log_p.detach().mean()) / (3 * 16 * 16) / math.log(2), rel=1e-6
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [("size=24-6", "24-6"), ("widht=3", "widht"), ("crop=[20,20]", "multiples of 8")],
)
def test_bad_settings_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, message: str
) -> None:
    assert run(tmp_path / "run", setting) == 1
    assert message in capsys.readouterr().err

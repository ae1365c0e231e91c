# SPDX-License-Identifier: Apache-2.0
"""One's own frames, classes and objects: from a folder to a calibrated model file."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from anomaly_seg_ros.inference.segmenter import Segmenter
from training import calibrate, closed_set, fine_tune

CLASSES = (
    ("floor", "ground"), ("wall", ""), ("shelf", ""), ("pallet", "thing"), ("forklift", "thing"),
    ("worker", "thing"),
)  # fmt: skip
DATA = """
taxonomy: classes.yaml
train:
  hall: {adapter: folder, root: frames, options: {labels: classes}, held_out: 5}
objects:
  things: {adapter: folder, root: objects}
"""
SETTINGS = [
    "steps=2", "batch_size=2", "workers=0", "precision=fp32", "crop=[64, 96]",
    "height_range=[64, 96]", "validate_every=2", "tensorboard=false", "warmup=0",
    "validation.size=[64, 96]",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten frames of a warehouse in six classes, and three objects."""
    rng = np.random.default_rng(0)
    root = tmp_path / "mine"
    for name in ("frames/images", "frames/labels", "objects/images", "objects/masks"):
        (root / name).mkdir(parents=True)
    for i in range(10):
        label = np.zeros((96, 128), np.uint8)
        label[:40], label[10:40, 60:] = 1, 2
        label[50:80, 10 + i : 40 + i], label[45:75, 60:90] = 3, 4
        label[40:70, 100:118] = 5
        image = (40 * label[..., None] + rng.integers(0, 30, (96, 128, 3))).astype(np.uint8)
        cv2.imwrite(str(root / "frames" / "images" / f"{i}.png"), image)
        cv2.imwrite(str(root / "frames" / "labels" / f"{i}.png"), label)
    for i in range(3):
        mask = cv2.circle(np.zeros((50, 50), np.uint8), (25, 25), 15 + 3 * i, 255, -1)
        image = rng.integers(0, 255, (50, 50, 3)).astype(np.uint8)
        cv2.imwrite(str(root / "objects" / "images" / f"{i}.png"), image)
        cv2.imwrite(str(root / "objects" / "masks" / f"{i}.png"), mask)
    entries = [
        {"name": name, "colour": [40 * i, 90, 200 - 30 * i], "role": role}
        for i, (name, role) in enumerate(CLASSES)
    ]
    (root / "classes.yaml").write_text(yaml.safe_dump({"classes": entries}))
    (root / "data.yaml").write_text(DATA)
    return root


def test_from_a_folder_to_a_model_file(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(entry: str) -> list[str]:
        return ["--data", str(folder), "--run-dir", str(tmp_path / entry), "--device", "cpu"]

    network = "network.arguments={decoder_channels: 16, skip_channels: 8}"
    settings = ["start=''", network, "network.inference_size=[64, 96]"]
    assert closed_set.main([*command("closed"), "--set", *SETTINGS, *settings]) == 0
    model = str(tmp_path / "closed" / "final.safetensors")
    settings = ["inference_size=[64, 96]", "max_miou_drop=1.0", "validation.mixed_frames=4"]
    assert fine_tune.main([*command("open"), "--model", model, "--set", *SETTINGS, *settings]) == 0
    assert "hall: 8 images, weight 1.0" in capsys.readouterr().out
    path = tmp_path / "open" / "final.safetensors"
    segmenter = Segmenter.load(path, device="cpu")
    assert segmenter.metadata.classes == tuple(name for name, _ in CLASSES)
    calibration = segmenter.metadata.calibration
    assert set(calibration) == set(segmenter.available_scores)
    assert 0 < calibration["energy"].threshold_for_tpr(0.95) < 1
    picture = cv2.imread(str(folder / "frames" / "images" / "0.png"))[..., ::-1]
    prediction = segmenter.predict(np.ascontiguousarray(picture))
    assert prediction.labels.max() < len(CLASSES)

    # The same data block calibrates any other model of these classes.
    out = tmp_path / "again.safetensors"
    options = ["--model", str(path), "--out", str(out), "--data", str(folder), "--device", "cpu"]
    assert calibrate.main([*options, "--target-fpr", "0.1", "--mixed", "2"]) == 0
    again = Segmenter.load(out, device="cpu").metadata
    assert again.calibration["energy"].threshold < calibration["energy"].threshold


def test_a_model_with_other_classes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--data", str(folder), "--run-dir", str(tmp_path / "run"), "--device", "cpu"]
    assert fine_tune.main([*command, "--model", "closed_set"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "19 classes" in error
    assert "6" in error
    assert "training.closed_set" in error

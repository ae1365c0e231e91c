# SPDX-License-Identifier: Apache-2.0
"""Frames labelled by a model: what is written, what is not sure, how it goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tiny import tiny_metadata, tiny_network

from anomaly_seg_ros.checkpoints.loading import save_model
from anomaly_seg_ros.datasets import open_dataset
from anomaly_seg_ros.inference.backends import selection
from anomaly_seg_ros.inference.options import TORCH
from anomaly_seg_ros.inference.segmenter import Segmenter
from training import pseudo_label

FRAMES = ("a/one.jpg", "a/b/two.png", "three.png")
CONFIDENCE = 0.3


@pytest.fixture
def drives(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in FRAMES:
        path = tmp_path / "drives" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = cv2.resize(rng.integers(0, 256, (6, 9, 3)).astype(np.uint8), (96, 64))
        cv2.imwrite(str(path), image)
    (tmp_path / "drives" / "notes.txt").write_text("no image")
    return tmp_path / "drives"


def save_model_that_is_sure_at_times(path: Path, seed: int = 0) -> None:
    network = tiny_network(seed=seed)
    with torch.no_grad():
        network.classifier.weight.mul_(40_000)
    save_model(path, network, tiny_metadata())


@pytest.fixture
def run(drives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.setattr(selection, "CPU_ORDER", (TORCH,))  # the others compile for seconds
    save_model_that_is_sure_at_times(tmp_path / "tiny.safetensors")

    def start(*more: str, out: str = "labelled", images: str = "drives") -> int:
        command = ["--model", str(tmp_path / "tiny.safetensors"), "--data", str(tmp_path)]
        command += ["--run-dir", str(tmp_path / out), "--device", "cpu"]
        return pseudo_label.main(
            [*command, "--set", f"images={images}", f"confidence={CONFIDENCE}", *more]
        )

    return start


def test_frames_and_labels_are_a_data_set(
    run: Callable[..., int], drives: Path, tmp_path: Path
) -> None:
    assert run() == 0
    data = open_dataset("folder", tmp_path / "labelled", labels="classes")
    names = {"a_b_two": "a/b/two.png", "a_one": "a/one.jpg", "three": "three.png"}
    assert {sample.name for sample in data} == set(names)
    segmenter = Segmenter.load(tmp_path / "tiny.safetensors", device="cpu")
    for sample in data:
        original = drives / names[sample.name]
        assert sample.image_path.read_bytes() == original.read_bytes()
        frame = sample.load()
        found = segmenter.predict(frame.image, ())
        sure = found.confidence >= 255 * CONFIDENCE
        assert frame.labels.dtype == np.uint8
        assert np.array_equal(frame.labels, np.where(sure, found.labels, 255))
        assert 0 < sure.sum() < sure.size


def test_an_interrupted_run_goes_on(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, labelled = pseudo_label.pseudo_labels, []

    def interrupted(*arguments: object) -> np.ndarray:
        labelled.append(1)
        if len(labelled) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(pseudo_label, "pseudo_labels", interrupted)
    assert run() == 130
    labels = tmp_path / "labelled" / "labels"
    (first,) = labels.iterdir()
    before = first.stat().st_mtime_ns
    assert run() == 0
    assert len(labelled) == 4
    assert first.stat().st_mtime_ns == before
    # A label file is the last of its frame: no image without one is left.
    for folder in ("images", "labels"):
        assert len(list((tmp_path / "labelled" / folder).iterdir())) == 3
    assert run() == 0
    assert len(labelled) == 4


def error(run: Callable[..., int], capsys: pytest.CaptureFixture[str], *more: str, **how) -> str:
    assert run(*more, **how) == 1
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("pseudo_label: error: ")
    return line


class TestBadInput:
    @pytest.mark.parametrize("value", ["90", "-0.1"])
    def test_a_confidence_that_is_no_share(self, run, capsys, value: str) -> None:
        wanted = "confidence: expected a share from 0 to 1"
        assert wanted in error(run, capsys, f"confidence={value}")

    def test_no_images(self, run, capsys, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        for name in ("empty", "absent"):
            text = error(run, capsys, images=name)
            assert f"images: {tmp_path / name}: no images in this folder or below it" in text

    def test_a_damaged_image_is_named(self, run, capsys, drives: Path) -> None:
        (drives / "three.png").write_bytes(b"nothing")
        assert "three.png" in error(run, capsys)

    def test_an_unknown_model(self, run, capsys) -> None:
        assert "defautl" in error(run, capsys, "--model", "defautl")

    def test_two_frames_of_one_name(self, run, capsys, drives: Path) -> None:
        """Neither may be left without labels, as if it had them already."""
        (drives / "a_one.png").write_bytes((drives / "three.png").read_bytes())
        text = error(run, capsys)
        assert "a_one.png and" in text
        assert "a/one.jpg would both be labelled a_one.png" in text

    def test_labels_among_the_frames(self, run, capsys) -> None:
        text = error(run, capsys, out="drives/labelled")
        assert "drives/labelled: lies in images, " in text

    def test_labels_of_another_model(self, run, capsys, tmp_path: Path) -> None:
        assert run() == 0
        text = error(run, capsys, "confidence=0.7")
        assert "another confidence" in text
        assert str(tmp_path / "labelled" / "pseudo_labels.json") in text
        save_model_that_is_sure_at_times(tmp_path / "tiny.safetensors", seed=1)
        assert "another sha256" in error(run, capsys)
        assert json.loads((tmp_path / "labelled" / "pseudo_labels.json").read_text())
        assert run(out="another") == 0

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_folder_that_cannot_be_written(self, run, capsys, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        assert "cannot create the folder" in error(run, capsys)

    def test_a_file_where_the_folder_should_be(self, run, capsys, tmp_path: Path) -> None:
        (tmp_path / "labelled").write_text("")
        assert "labelled/images: cannot create the folder" in error(run, capsys)

# SPDX-License-Identifier: Apache-2.0
"""The prepared run: what each step has stays, the time is kept, and packed data trains alike."""

from __future__ import annotations

import json
import os
import sys
import tarfile
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from tiny import save_tiny_model

from anomaly_seg_ros.checkpoints.loading import load_model
from anomaly_seg_ros.errors import DatasetError, OutputError, ParameterError
from anomaly_seg_ros.io.images import read_image, read_label
from tools.gpu_run import __main__ as gpu_run
from tools.gpu_run.pack import pack, unpack
from tools.gpu_run.steps import run_command
from tools.gpu_run.weights import write_weights
from training.data.corpora import TrainingData

BLOCK = {
    "taxonomy": "cityscapes",
    "train": {
        "street": {"adapter": "folder", "root": "street", "options": {"labels": "classes"},
                   "held_out": 3},
    },
    "objects": {"things": {"adapter": "folder", "root": "things"}},
}  # fmt: skip
SETTINGS = {
    "batch_size": 2, "workers": 0, "crop": [64, 96], "height_range": [64, 96], "warmup": 0,
    "precision": "fp32", "inference_size": [64, 96], "max_miou_drop": 1.0, "best_figure": "",
    "mixing": {"decoy_sources": []}, "data": BLOCK,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six road scenes of 72 x 108, and six objects."""
    rng = np.random.default_rng(5)
    for name in ("street/images", "street/labels", "things/images", "things/masks"):
        (tmp_path / "data" / name).mkdir(parents=True)
    (tmp_path / "data" / "street" / "notes.txt").write_text("a table of an adapter")
    (tmp_path / "data" / "street" / "unused.png").write_bytes(b"not asked for")
    for i in range(6):
        label = np.full((72, 108), 10, np.uint8)
        label[30:] = 0
        mask = np.zeros((40, 40), np.uint8)
        cv2.circle(mask, (20, 20), 12, 255, -1)
        for name, array in (
            ("street/images", rng.integers(0, 256, (72, 108, 3)).astype(np.uint8)),
            ("street/labels", label),
            ("things/images", rng.integers(0, 256, (40, 40, 3)).astype(np.uint8)),
            ("things/masks", mask),
        ):
            cv2.imwrite(str(tmp_path / "data" / name / f"{i}.png"), array)
    return tmp_path / "data"


class TestCommands:
    def test_a_command_that_takes_too_long_is_ended_with_its_children(
        self, tmp_path: Path
    ) -> None:
        script = "trap '' INT; sleep 60 & echo $!; wait; sleep 60"
        began = time.monotonic()
        outcome = run_command(["bash", "-c", script], tmp_path / "log", 2.5, os.environ)
        assert outcome.end == "out of time"
        assert time.monotonic() - began < 10
        child = Path("/proc", (tmp_path / "log").read_text().strip())
        deadline = time.monotonic() + 10
        while child.exists() and "Z" not in (child / "stat").read_text().split()[2]:
            assert time.monotonic() < deadline
            time.sleep(0.1)

    @pytest.mark.parametrize(("code", "end"), [(0, "done"), (3, "failed")])
    def test_the_end_of_a_command(self, tmp_path: Path, code: int, end: str) -> None:
        script = f"print('said'); raise SystemExit({code})"
        outcome = run_command([sys.executable, "-c", script], tmp_path / "log", 60, os.environ)
        assert (outcome.end, outcome.code) == (end, code)
        assert (tmp_path / "log").read_text() == "said\n"

    def test_the_rest_goes_on_after_a_failure(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        failed = gpu_run.Outcome("failed", 1, 0.1)
        monkeypatch.setattr(gpu_run.GpuRun, "_tests", lambda *_: failed)
        monkeypatch.setattr(gpu_run.GpuRun, "_benchmark", lambda *_: gpu_run.Outcome("done", 0, 0))
        out = tmp_path / "out"
        assert gpu_run.main(["--out", str(out), "--steps", "tests", "benchmark"]) == 1
        steps = json.loads((out / "results.json").read_text())["steps"]
        assert {name: step["end"] for name, step in steps.items()} == {
            "tests": "failed",
            "benchmark": "done",
        }


class TestPacking:
    def test_parts_hold_what_the_run_reads(self, folder: Path, tmp_path: Path) -> None:
        data = TrainingData(BLOCK, folder)
        parts = pack(data, tmp_path / "packed", part_mib=0.08)
        assert len(parts) > 1
        assert all(part.stat().st_size <= 0.08 * 2**20 for part in parts)
        unpack(parts, tmp_path / "there")
        files = {p.relative_to(folder): p for p in folder.rglob("*") if p.is_file()}
        there = {
            p.relative_to(tmp_path / "there"): p
            for p in (tmp_path / "there").rglob("*")
            if p.is_file()
        }
        assert files.keys() - there.keys() == {Path("street/unused.png")}
        assert not there.keys() - files.keys()
        assert all(path.read_bytes() == files[name].read_bytes() for name, path in there.items())

    def test_frames_are_shrunk_but_objects_are_not(self, folder: Path, tmp_path: Path) -> None:
        unpack(pack(TrainingData(BLOCK, folder), tmp_path / "packed", height=36), tmp_path)
        label = read_label(tmp_path / "street" / "labels" / "2.png")
        assert label.shape == (36, 54)
        assert np.unique(label).tolist() == [0, 10]
        image = read_image(folder / "street" / "images" / "2.png")
        # Halved by averaging 2 x 2 pixels.
        means = image.reshape(36, 2, 54, 2, 3).mean(axis=(1, 3))
        found = read_image(tmp_path / "street" / "images" / "2.png")
        assert np.abs(found - means).max() <= 0.5
        assert read_image(tmp_path / "things" / "images" / "0.png").shape == (40, 40, 3)

    def test_errors_name_what_is_wrong(self, folder: Path, tmp_path: Path) -> None:
        data = TrainingData(BLOCK, folder)
        with pytest.raises(ParameterError, match=r"\.png: .* MiB do not fit"):
            pack(data, tmp_path / "a", part_mib=0.02)
        pack(data, tmp_path / "b")
        with pytest.raises(OutputError, match="has parts already"):
            pack(data, tmp_path / "b")
        with pytest.raises(DatasetError, match="no part_"):
            unpack([], tmp_path / "c")
        (tmp_path / "b" / "part_01.tar").write_bytes(b"no tar")
        with pytest.raises(DatasetError, match=r"part_01\.tar: cannot be unpacked"):
            unpack((tmp_path / "b").glob("*.tar"), tmp_path / "c")
        street = {**BLOCK["train"]["street"], "root": str(folder / "street")}
        elsewhere = {"taxonomy": "cityscapes", "train": {"a": street}}
        with pytest.raises(ParameterError, match="is not below the data folder"):
            pack(TrainingData(elsewhere, tmp_path / "other"), tmp_path / "d")

    def test_a_part_writes_nothing_outside_of_its_folder(self, tmp_path: Path) -> None:
        with tarfile.open(tmp_path / "part_01.tar", "w") as part:
            part.addfile(tarfile.TarInfo("../escaped"))
        with pytest.raises(DatasetError, match="outside"):
            unpack([tmp_path / "part_01.tar"], tmp_path / "in")
        assert not (tmp_path / "escaped").exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_training_from_packed_data_leaves_its_weights(folder: Path, tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "tiny.safetensors")
    config = {**SETTINGS, "model": str(tmp_path / "tiny.safetensors")}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config))
    pack(TrainingData(BLOCK, folder), tmp_path / "packed")
    out, run = tmp_path / "out", tmp_path / "run"
    command = ["--out", str(out), "--device", "cpu", "--seconds", "120", "--steps", "training"]
    command += ["--packed", str(tmp_path / "packed"), "--config", str(tmp_path / "tiny.yaml")]
    # The training's share of the time, cut short.
    command += ["--run-dir", str(run), "--set", "validation.size=[64, 96]", "steps=4"]
    code = gpu_run.main(command)
    results = json.loads((out / "results.json").read_text())
    log = (out / "training.log").read_text()
    assert code == 0, log
    assert results["steps"]["training"]["end"] == "done"
    # What it would have left without its end.
    assert write_weights(run / "last.pt", folder, out / "weights.safetensors") == 4
    network, metadata = load_model(str(out / "weights.safetensors"))
    final, _ = load_model(str(out / "final.safetensors"))
    assert metadata.name == "tiny_step_4"
    for name, value in final.state_dict().items():
        assert (value == network.state_dict()[name]).all(), name
    assert json.loads((out / "log.jsonl").read_text().splitlines()[-1])["step"] == 4

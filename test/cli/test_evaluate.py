# SPDX-License-Identifier: Apache-2.0
"""The command: what it writes and prints, and how it stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny import save_tiny_model

from anomaly_seg_ros.cli import evaluate

FRAMES = 40


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "squares"
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for index in range(FRAMES):
        rng = np.random.default_rng(index)
        mask = np.zeros((60, 90), np.uint8)
        mask[20:40, index : index + 20] = 1
        image = rng.integers(0, 256, (60, 90, 3)).astype(np.uint8)
        cv2.imwrite(str(root / "images" / f"{index:02}.png"), image)
        cv2.imwrite(str(root / "labels" / f"{index:02}.png"), mask)
    return root


def run(*arguments: object, code: int = 0) -> None:
    assert evaluate.main([*map(str, arguments), "--device", "cpu"]) == code


def runs(out: Path) -> list[dict]:
    found = json.loads((out / "benchmark.json").read_text())["runs"]
    return [{key: value for key, value in one.items() if key != "seconds"} for one in found]


def test_writes_tables_and_report(
    tmp_path: Path, model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--models", f"ours={model}", "--data", data, "--scores", "msp", "--out", tmp_path)
    said = capsys.readouterr().out
    found = runs(tmp_path)[0]["scores"]["msp"]
    for needle in ("ours", "squares", f"{found['AP']:.2f}", "benchmark.json"):
        assert needle in said
    for name in ("benchmark.md", "benchmark.tex", "benchmark.csv", "benchmark.html"):
        assert (tmp_path / name).stat().st_size > 100


def test_a_file_in_the_place_of_the_folder_is_named(
    tmp_path: Path, model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    run("--models", model, "--data", data, "--out", file, code=1)
    assert f"evaluate: error: cannot write to {file}: File exists" in capsys.readouterr().err


def test_results_of_one_folder_add_up(tmp_path: Path, model: Path, data: Path) -> None:
    common = ("--models", model, "--scores", "msp", "--out", tmp_path, "--data")
    run(*common, data)
    run(*common, f"again={data}")
    assert [found["data"] for found in runs(tmp_path)] == ["squares", "again"]


def test_scores_from_files_and_back(tmp_path: Path, model: Path, data: Path) -> None:
    dumps = tmp_path / "dumps"
    common = ("--data", data, "--scores", "energy", "--out", tmp_path)
    run(*common, "--models", model, "--dump", "npy", dumps)
    run(*common, "--dumped", dumps / "tiny-energy", "--name", "theirs")
    ours, theirs = runs(tmp_path)
    assert (theirs["model"], theirs["via"]) == ("theirs", "dumped")
    for figure in ("AP", "AUROC", "FPR95", "components", "best_F1"):
        assert theirs["scores"]["dumped"][figure] == ours["scores"]["energy"][figure]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "nothing"], "no such file: nothing"),
        (["--models", "{model}", "--scores", "energie"], "unknown score 'energie'"),
        (["--threads", "0"], "threads must be at least 1"),
        (["--name", "x"], "--name names the one folder of --dumped"),
        (["--dumped", "{data}/nothing"], "no such folder of scores"),
        (["--models", "{model}", "--dump", "png", "x"], "dump 'png'"),
        (["--models", "{model}", "{model}"], "two models are called 'tiny'"),
    ],
)
def test_errors(
    tmp_path: Path,
    model: Path,
    data: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    filled = [text.format(model=model, data=data) for text in arguments]
    run(*filled, "--data", data, "--out", tmp_path, code=1)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("evaluate: error: ")
    assert message in error


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_process_is_resumed(
    tmp_path: Path, model: Path, data: Path, number: signal.Signals
) -> None:
    cut = tmp_path / "cut"
    common = ("--models", model, "--data", data, "--save-every", 0, "--threads", 1)
    command = [sys.executable, "-m", "anomaly_seg_ros.cli.evaluate", *map(str, common)]
    process = subprocess.Popen(
        [*command, "--device", "cpu", "--out", str(cut)],
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
    )
    folder, until = cut / "states" / "tiny__squares", time.monotonic() + 90
    while not list(folder.glob("pixels-0-*")) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(number)
    error = process.communicate(timeout=30)[1].decode()
    assert process.returncode == (130 if number == signal.SIGTERM else -9), error
    done = [json.loads(path.read_text())["done"] for path in folder.glob("*/progress.json")]
    assert done
    assert len(done[-1]) < FRAMES
    run(*common, "--out", cut)
    run(*common, "--out", tmp_path / "whole")
    assert runs(cut) == runs(tmp_path / "whole")

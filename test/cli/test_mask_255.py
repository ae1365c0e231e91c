# SPDX-License-Identifier: Apache-2.0
"""``--mask-255``: every tool that reads a folder of masks refuses 0 and 255 alone without it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny import save_tiny_model

from anomaly_seg_ros.bags import BagReader
from anomaly_seg_ros.cli import dataset_to_bag, demo, evaluate, evaluate_folder


def write_pair(root: Path, name: str, largest: int) -> None:
    mask = np.zeros((60, 90), np.uint8)
    mask[20:40, 20:50] = largest
    image = np.random.default_rng(1).integers(0, 256, (60, 90, 3)).astype(np.uint8)
    for folder, array in (("images", image), ("labels", mask)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(root / folder / f"{name}.png"), array)


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    root = tmp_path / "data" / "binary"
    write_pair(root, "a", 255)
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


def refused(said: pytest.CaptureFixture[str]) -> None:
    (line,) = [x for x in said.readouterr().err.splitlines() if "0 and 255" in x]
    assert "binary: the anomaly masks hold" in line
    assert "--mask-255 anomaly" in line


def test_dataset_to_bag(binary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = tmp_path / "bag"
    arguments = ["--root", str(binary), "--out", str(bag)]
    assert dataset_to_bag.main(arguments) == 1
    refused(capsys)
    assert not bag.exists()
    for meaning, value in (("anomaly", 1), ("ignore", 255)):
        assert dataset_to_bag.main([*arguments, "--mask-255", meaning, "--overwrite"]) == 0
        with BagReader(bag) as reader:
            assert np.unique(next(reader.frames()).anomaly_mask).tolist() == [0, value]


def test_evaluate(
    binary: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    common = ["--models", str(model), "--scores", "msp", "--device", "cpu", "--out", str(out)]
    assert evaluate.main([*common, "--data", f"folder:{binary}"]) == 1
    refused(capsys)
    assert not out.exists()
    given = [f"b=folder:{binary}?mask_255=anomaly", f"i={binary}?mask_255=ignore"]
    assert evaluate.main([*common, "--data", *given]) == 0
    anomaly, ignore = json.loads((out / "benchmark.json").read_text())["runs"]
    assert anomaly["scores"]["msp"]["AP"] is not None
    assert ignore["scores"]["msp"]["AP"] is None


def test_pooled_folders_are_one_set(
    binary: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--models", str(model), "--scores", "msp", "--device", "cpu"]
    pattern = ["--out", str(tmp_path / "out"), "--data", f"{binary.parent}/*"]
    write_pair(binary.with_name("more"), "b", 255)
    assert evaluate.main([*common, *pattern]) == 1
    assert "0 and 255 but no 1" in capsys.readouterr().err
    write_pair(binary.with_name("more"), "c", 1)
    assert evaluate.main([*common, *pattern]) == 0


@pytest.mark.parametrize("tool", [evaluate_folder, demo])
def test_tools_that_replay_a_folder(
    tool: object, binary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(binary), "--out", str(tmp_path / "out")]
    assert tool.main(arguments) == 1
    refused(capsys)
    assert not (tmp_path / "out" / "bag").exists()


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        (evaluate_folder, ["--data", "x", "--out", "y"]),
        (demo, []),
        (dataset_to_bag, ["--root", "x", "--out", "y"]),
    ],
)
def test_another_meaning_is_none(
    tool: object, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        tool.main([*arguments, "--mask-255", "void"])
    assert "--mask-255: invalid choice: 'void'" in capsys.readouterr().err

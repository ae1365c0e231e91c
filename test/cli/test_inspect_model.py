# SPDX-License-Identifier: Apache-2.0
"""inspect_model says what a file is and whether it fits, or why not."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import save_tiny_model, tiny_metadata, tiny_network
from tiny_releases import hollow, prefixed

from anomaly_seg_ros.checkpoints.metadata import METADATA_KEY
from anomaly_seg_ros.cli import inspect_model


def inspect_json(
    capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0
) -> dict[str, object]:
    assert inspect_model.main([*arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_describes_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_tiny_model(tmp_path / "tiny.safetensors")
    assert inspect_model.main([str(path)]) == 0
    said = capsys.readouterr().out
    for needle in ("deeplab_v3plus_lite", "64 x 96", "bicycle", "max_logit", "random"):
        assert needle in said
    assert "missing: 0\nunexpected: 0\nmisshaped: 0" in said


def test_shipped_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect_model.main([]) == 0
    said = capsys.readouterr().out
    assert "release: this package" in said
    assert "not calibrated" not in said


def test_names_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect_model.main([str(tmp_path / "no.safetensors")]) == 1
    assert "no.safetensors" in capsys.readouterr().err


def test_a_public_release(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cityscapes_best.pth"
    weights = prefixed("module.", hollow("wide_resnet38"))
    weights["module.criterion.nll_loss.weight"] = torch.ones(19)
    torch.save({"state_dict": weights, "epoch": 174, "mean_iu": np.float64(0.9064)}, path)
    report = inspect_json(capsys, str(path))
    assert report["release"] == "NVIDIA DeepLabV3+"
    assert (report["tensors"], round(report["parameters"] / 1e6, 2)) == (268, 137.10)
    assert (report["epoch"], report["mean_iou"]) == (174, 0.9064)
    assert report["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert report["dtypes"]["float32"] + report["dtypes"]["int64"] == 269
    assert report["changes"] == [
        "dropped, no part of the network (of the training loss): criterion.nll_loss.weight"
    ]
    assert report["error"] is None
    assert inspect_model.main([str(path)]) == 0
    said = capsys.readouterr().out
    for needle in ("epoch 174", "mean_iu 0.9064", "137.10 M", "prefix module.", "not calibrated"):
        assert needle in said


def test_heads_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "heads.pth"
    torch.save(hollow("wide_resnet38", outlier_head=True, abstention=True), path)
    report = inspect_json(capsys, str(path))
    assert report["heads"] == ["classes", "outlier head", "abstention"]
    torch.save(hollow("erfnet", outlier_head={"width": 8}), path)
    assert inspect_json(capsys, str(path))["heads"] == ["classes", "outlier branch"]
    torch.save(hollow("resnet101", stem="deep", auxiliary=True), path)
    assert inspect_json(capsys, str(path))["heads"] == ["classes", "auxiliary"]


def test_all_differences_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "half.pth"
    tensors = hollow("erfnet")
    gone = sorted(key for key in tensors if key.startswith("decoder.layers.0."))
    for key in gone:
        del tensors[key]
    torch.save({**tensors, "x": torch.zeros(1)}, path)
    report = inspect_json(capsys, str(path), code=1)
    assert report["missing"] == gone
    assert report["unexpected"] == ["x"]
    assert f"{len(gone)} missing" in report["error"]
    assert inspect_model.main([str(path)]) == 1
    captured = capsys.readouterr()
    assert all(f"  {key}\n" in captured.out for key in gone)
    assert captured.err.startswith("inspect_model: error: ")


def test_unknown_files_are_compared_with_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.pth"
    torch.save(hollow("wide_resnet38", num_classes=7), path)
    report = inspect_json(capsys, str(path), "--as", "erfnet", code=1)
    assert report["architecture"] == "erfnet"
    torch.save({"a": torch.zeros(3)}, path)
    report = inspect_json(capsys, str(path), code=1)
    assert "unknown layout: 1 tensors (a)" in report["error"]
    assert report["unexpected"] == ["a"]
    assert len(report["missing"]) == report["tensors"]


def test_own_files_of_unknown_networks_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "later.safetensors"
    metadata = tiny_metadata(architecture="of_tomorrow")
    save_file({"a": torch.zeros(1)}, path, {METADATA_KEY: metadata.to_json()})
    assert inspect_model.main([str(path)]) == 1
    assert "unknown architecture 'of_tomorrow'" in capsys.readouterr().err


def test_the_number_of_classes_overrules_the_guess(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "twenty.pth"
    torch.save(hollow("wide_resnet38", num_classes=20), path)
    guessed = inspect_json(capsys, str(path))
    assert (len(guessed["classes"]), guessed["heads"]) == (19, ["classes", "abstention"])
    assert "if they are 20 classes: convert_model --num-classes 20" in guessed["remarks"][0]
    stated = inspect_json(capsys, str(path), "--num-classes", "20")
    assert (len(stated["classes"]), stated["heads"]) == (20, ["classes"])
    assert inspect_json(capsys, str(path), "--num-classes", "19")["remarks"] == []
    assert inspect_model.main([str(path), "--num-classes", "12"]) == 1
    assert "20 outputs, which cannot be the 12 classes" in capsys.readouterr().err


def test_one_of_several_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "distilled.pth"
    teacher = prefixed("teacher.", hollow("erfnet", num_classes=7, num_outputs=7))
    torch.save({"state_dict": {**teacher, **prefixed("student.", hollow("erfnet"))}}, path)
    chosen = inspect_json(capsys, str(path))
    assert (chosen["prefixes"], chosen["arguments"]["num_outputs"]) == (["student."], 20)
    assert chosen["changes"] == [
        "'student.' is read, and not 'teacher.' (345 tensors): --prefix chooses another"
    ]
    other = inspect_json(capsys, str(path), "--prefix", "teacher")
    assert (other["prefixes"], other["arguments"]["num_outputs"]) == (["teacher."], 7)
    assert inspect_model.main([str(path), "--prefix", "ema."]) == 1
    assert "its keys begin with teacher., student." in capsys.readouterr().err


def test_diverged_weights_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = tiny_network().state_dict()
    tensors["classifier.weight"][0] = float("nan")
    torch.save(tensors, tmp_path / "nan.pth")
    remarks = inspect_json(capsys, str(tmp_path / "nan.pth"))["remarks"]
    assert remarks == ["NaN or infinite values in 1 tensors: classifier.weight"]


def test_another_state_dict_of_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "last.pt"
    torch.save({"model": hollow("erfnet"), "average": hollow("erfnet", num_outputs=19)}, path)
    assert inspect_json(capsys, str(path))["arguments"]["num_outputs"] == 20
    assert inspect_json(capsys, str(path), "--key", "average")["arguments"]["num_outputs"] == 19


def test_pickled_code_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Malicious:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    torch.save({"state_dict": hollow("erfnet"), "args": Malicious()}, tmp_path / "evil.pth")
    assert inspect_model.main([str(tmp_path / "evil.pth")]) == 1
    assert "refused" in capsys.readouterr().err
    assert not (tmp_path / "executed").exists()

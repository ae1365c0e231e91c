# SPDX-License-Identifier: Apache-2.0
"""export_model writes a file that runs without this package, or says why not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import save_tiny_model

from anomaly_seg_ros.cli import export_model
from anomaly_seg_ros.export import files


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_writes_a_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_tiny_model(tmp_path / "tiny.safetensors", outlier_head=True)
    out = tmp_path / "tiny.pt2"
    arguments = [str(model), "--to", "pt2", "--out", str(out), "--score", "dense_hybrid"]
    assert export_model.main(arguments) == 0
    said = capsys.readouterr().out
    for needle in ("multiples of 32", "logits, ood_logits, score (dense_hybrid)", "largest diff"):
        assert needle in said
    outputs = torch.export.load(out).module()(torch.zeros(1, 3, 64, 96, dtype=torch.uint8))
    assert outputs["score"].shape == (1, 16, 24)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--to", "onnx", "--out", "x.pt2"), "--out x.pt2: expected a name in .onnx"),
        (("--to", "pt2", "--out", "x.pt2", "--opset", "18"), "--opset is for --to onnx"),
        (("--to", "pt2", "--out", "x.pt2", "--score", "dense_hybrid"), "needs an outlier head"),
        (("--to", "pt2", "--out", "no/x.pt2"), "no such folder"),
    ],
)
def test_refuses_what_does_not_fit(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = save_tiny_model(tmp_path / "tiny.safetensors")
    monkeypatch.chdir(tmp_path)
    assert export_model.main([str(model), *arguments]) == 1
    assert message in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == [model.name]


def test_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
    out = tmp_path / "x.onnx"
    assert export_model.main(["default", "--to", "onnx", "--out", str(out)]) == 1
    assert "pip install -r requirements/export.txt" in capsys.readouterr().err
    assert not out.exists()

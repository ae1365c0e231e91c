"""inspect_model says what a file is, or why not."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import save_tiny_model

from anomaly_seg_ros.cli import inspect_model


def test_describes_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_tiny_model(tmp_path / "tiny.safetensors")
    assert inspect_model.main([str(path)]) == 0
    said = capsys.readouterr().out
    for needle in ("deeplab_v3plus_lite", "64 x 96", "bicycle", "max_logit", "random"):
        assert needle in said


def test_names_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect_model.main([str(tmp_path / "no.safetensors")]) == 1
    assert "no.safetensors" in capsys.readouterr().err

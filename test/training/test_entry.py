# SPDX-License-Identifier: Apache-2.0
"""What every training entry sets up."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from training.engine.entry import Run, run_entry
from training.flow import fit_pointwise
from training.study import run


@pytest.fixture(autouse=True)
def _tf32_is_on() -> None:
    """As torch starts; the fixture of the folder restores it."""
    torch.backends.cudnn.allow_tf32 = True


@pytest.mark.parametrize("defaults", ["fine_tune.yaml", "closed_set.yaml", "flow.yaml"])
def test_float32_is_not_tf32_in_a_training(tmp_path: Path, defaults: str) -> None:
    seen = []

    def body(run: Run) -> None:
        seen.append(torch.backends.cudnn.allow_tf32)

    command = ["--run-dir", str(tmp_path), "--device", "cpu"]
    assert run_entry("x", "", defaults, body, command) == 0
    assert seen == [False]


def test_a_home_that_no_shell_has_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    found = []

    def body(run: Run) -> None:
        found.extend([run.data, run.folder])

    command = ["--run-dir", "~/run", "--data", "~/mine", "--device", "cpu"]
    assert run_entry("x", "", "closed_set.yaml", body, command) == 0
    assert found == [tmp_path / "mine", tmp_path / "run"]


def test_float32_is_not_tf32_in_a_study(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({"sets": {}, "common": {}, "tables": {}}))
    assert run.main(["--study", str(path), "--out", str(tmp_path), "--device", "cpu"]) == 0
    assert not torch.backends.cudnn.allow_tf32


def test_float32_is_not_tf32_in_the_fit_of_a_pointwise_flow(tmp_path: Path) -> None:
    command = ["--model", str(tmp_path / "none.safetensors"), "--output", str(tmp_path / "x")]
    assert fit_pointwise.main([*command, "--device", "cpu"]) == 1
    assert not torch.backends.cudnn.allow_tf32

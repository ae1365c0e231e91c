# SPDX-License-Identifier: Apache-2.0
"""compare prints differences in three forms, or says why it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_benchmark import write_measured

from anomaly_seg_ros.cli import compare


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    rng = np.random.default_rng(0)
    masks = (rng.random((12, 10, 12)) < 0.2).astype(np.uint8)
    paths = [
        write_measured(
            tmp_path / name,
            name,
            masks,
            {"max_logit": (rng.normal(size=masks.shape) + gain * masks).astype(np.float32)},
        )
        for name, gain in (("before", 0.2), ("after", 3.0))
    ]
    return str(paths[0]), str(paths[1].parent)


def test_prints_a_table(pair: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    models = ["--model-a", "before", "--model-b", "after", "--bootstrap", "100"]
    assert compare.main([*pair, *models]) == 0
    said = capsys.readouterr().out
    assert "before → after" in said
    assert "100 resamplings of the images" in said
    line = next(line for line in said.splitlines() if " AP " in line)
    assert "*" in line, "so large a gain is clear"


def test_markdown_and_json(
    pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = ["--model-a", "before", "--model-b", "after", "--bootstrap", "50", "--seed", "3"]
    assert compare.main([*pair, *models, "--markdown"]) == 0
    assert "| `max_logit` |" in capsys.readouterr().out
    out = tmp_path / "made" / "comparison.json"
    assert compare.main([*pair, *models, "--json", "--out", str(out)]) == 0
    assert capsys.readouterr().out == ""
    document = json.loads(out.read_text())
    assert document["resampling"] == {"replicates": 50, "seed": 3, "confidence": 95.0}
    (found,) = document["pairs"]
    assert found["figures"][0]["figure"] == "AP"
    assert found["figures"][0]["difference"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--model-a and --model-b pair models of different names"),
        (("--model-a", "now"), "no model 'now'"),
        (("--bootstrap", "-1"), "replicates must not be negative"),
        (("--confidence", "100"), "confidence must be inside (0, 100)"),
    ],
)
def test_says_what_is_wrong(
    options: tuple[str, ...],
    message: str,
    pair: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert compare.main([*pair, *options]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("compare: error: ")
    assert message in said.err
    assert said.out == ""

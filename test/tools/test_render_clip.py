"""The parts of the clip's renderer that run without Blender."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
SCRIPT = TOOLS / "render_clip.py"


@pytest.fixture
def developing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    from clip import developing

    return developing


def test_labels_and_mask_split_the_ids(developing) -> None:
    from clip.layout import ANOMALY, CAR, SKY, VOID

    labels, mask = developing.labels_and_mask(np.array([[-1, CAR, VOID, ANOMALY]]))
    np.testing.assert_array_equal(labels, [[SKY, CAR, 255, 255]])
    np.testing.assert_array_equal(mask, [[0, 0, 255, 1]])


def test_disparity_is_focal_length_times_baseline_over_depth(developing) -> None:
    from clip.camera import ClipCamera

    camera = ClipCamera(fx=1000.0, baseline_m=0.2)
    stored = developing.disparity(np.array([[10.0, 40.0, np.inf]]), camera)
    np.testing.assert_array_equal(stored, [[20 * 256, 5 * 256, 0]])


def test_developing_keeps_black_black_and_more_light_brighter(developing) -> None:
    light = np.zeros((8, 24, 3), dtype=np.float32)
    light[:, 8:16], light[:, 16:] = 0.2, 20.0
    image = developing.develop(light, exposure=1.0, seed=0)
    left, middle, right = (float(image[:, column].mean()) for column in (2, 12, 21))
    assert left < 8 < left + 40 < middle < 250 < right


@pytest.mark.skipif(importlib.util.find_spec("bpy") is not None, reason="Blender is installed")
def test_missing_blender_is_one_clear_line(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, SCRIPT, "--out", tmp_path / "clip"], capture_output=True, text=True
    )
    assert run.returncode == 1
    assert run.stderr.startswith("render_clip: error: Python module 'bpy' is not installed")
    assert len(run.stderr.splitlines()) == 1
    assert not (tmp_path / "clip").exists()


@pytest.mark.parametrize("option", ["--frames=0", "--samples=0", "--quality=101", "--start=-1"])
def test_bad_options_are_refused(option: str, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, SCRIPT, "--out", tmp_path / "clip", option],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert option.split("=")[0] in run.stderr

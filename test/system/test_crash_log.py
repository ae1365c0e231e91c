# SPDX-License-Identifier: Apache-2.0
"""No traceback reaches a user: one line, and the traceback in a file that the line names."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from absent_module import hide

from anomaly_seg_ros.system import crash_log
from anomaly_seg_ros.system.tool import run_tool

REPOSITORY = Path(__file__).resolve().parents[2]


def run_without(module: str, program: list[str], folder: Path) -> subprocess.CompletedProcess:
    hide(module, folder)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{folder}:{REPOSITORY}",
        "XDG_STATE_HOME": str(folder / "state"),
    }
    return subprocess.run(
        [sys.executable, *program], env=environment, capture_output=True, text=True, cwd=folder
    )


@pytest.fixture
def state(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def test_an_unforeseen_error_is_one_line_and_a_log(state, capsys):
    def body() -> None:
        raise KeyError("a defect\nwith a second line")

    assert run_tool("mytool", body) == 1
    line = capsys.readouterr().err
    assert line.startswith("mytool: error: KeyError: ")
    assert line.count("\n") == 1
    log = Path(re.search(r"\(traceback: (.+)\)$", line.strip()).group(1))
    assert log.parent == state / "anomaly_seg_ros"
    assert 'raise KeyError("a defect' in log.read_text()


def test_without_a_writable_folder_the_traceback_is_not_lost(state, capsys, monkeypatch):
    state.write_text("a file where the folder should be")
    monkeypatch.setattr(crash_log.tempfile, "gettempdir", lambda: str(state / "nor here"))
    crash_log.report_crash("mytool", ValueError("bad"))
    error = capsys.readouterr().err
    assert error.startswith("ValueError: bad")
    assert error.rstrip().endswith("(no folder for a log could be written)")


@pytest.mark.parametrize(
    ("module", "advice"),
    [
        ("cv2", "`pip install opencv-python-headless`"),
        ("packaging", "`pip install packaging`"),
        ("rclpy", "source your ROS 2 installation"),
        ("sensor_msgs", "source your ROS 2 installation"),
        ("json.nothing", "lacks the module 'json.nothing'"),
    ],
)
def test_a_missing_module_comes_with_the_way_to_get_it(module, advice, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: find_spec(name) if name == "json" else None,
    )
    words = crash_log.in_words(ModuleNotFoundError("No module", name=module))
    assert advice in words
    assert "\n" not in words


@pytest.mark.parametrize(
    "program",
    [
        ["-m", "anomaly_seg_ros.cli.inspect_model", "default"],
        ["-m", "anomaly_seg_ros.ros.detector"],
        ["-m", "training.fine_tune", "--run-dir", "run"],
        ["-c", "from anomaly_seg_ros.cli import executables as e; e.evaluate()"],
    ],
    ids=["tool", "node", "training", "installed script"],
)
def test_a_package_missing_at_import_is_one_line(program, tmp_path):
    done = run_without("yaml", program, tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert "the Python package 'PyYAML' is missing: `pip install PyYAML`" in done.stderr
    assert len(list((tmp_path / "state" / "anomaly_seg_ros").iterdir())) == 1


def test_importing_the_package_leaves_the_hooks_alone():
    code = (
        "import sys; import anomaly_seg_ros, training; print(sys.excepthook is sys.__excepthook__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout == "True\n"

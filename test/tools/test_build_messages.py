# SPDX-License-Identifier: Apache-2.0
"""tools/build_messages.sh: vision_msgs is there after it, or it says in one line why not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "build_messages.sh"
# What it calls before it looks for a compiler.
BASICS = (
    "bash",
    "cat",
    "cut",
    "dirname",
    "find",
    "realpath",
    "sha256sum",
    "sort",
    "uname",
    "xargs",
)


def run(tmp_path: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """Runs it for an environment without vision_msgs and with an empty cache."""
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    # Apart from its pyvenv.cfg a link to an interpreter has no packages.
    (tmp_path / "venv/bin/python").symlink_to(Path(sys.executable).resolve())
    own = {"VENV": str(tmp_path / "venv"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    drop = {"ROS_DISTRO", "PYTHONPATH", "LD_LIBRARY_PATH"}
    environment = {name: value for name, value in os.environ.items() if name not in drop}
    return subprocess.run(
        [SCRIPT], env=environment | own | changes, capture_output=True, text=True, timeout=100
    )


def test_where_there_is_a_compiler_the_messages_are_built():
    """So that the tests of these topics are skipped nowhere without need."""
    if not shutil.which("c++") or not Path(sysconfig.get_path("include"), "Python.h").is_file():
        pytest.skip("no compiler here")
    from vision_msgs.msg import Detection2DArray, LabelInfo

    assert LabelInfo().class_map == Detection2DArray().detections == []


def test_without_a_compiler_it_says_so_and_succeeds(tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in BASICS:
        (tools / name).symlink_to(shutil.which(name))
    done = run(tmp_path, PATH=str(tools))
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert line.startswith("[messages] no ~/label_info and ~/unknown_objects")
    assert "apt install g++" in line


def test_on_an_apt_ros_it_names_the_package(tmp_path):
    done = run(tmp_path, ROS_DISTRO="jazzy")
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert line.endswith("apt install ros-jazzy-vision-msgs")
    assert not (tmp_path / "cache").exists()


def test_a_failed_build_shows_the_log_and_leaves_nothing_behind(tmp_path):
    done = run(tmp_path, PIP_NO_INDEX="1", PIP_CONFIG_FILE="/dev/null", PIP_FIND_LINKS="")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "[messages] error: pip failed"
    assert "setuptools" in done.stderr
    assert list((tmp_path / "cache/anomaly_seg_ros/messages").iterdir()) == []
    assert not (tmp_path / "venv/share").exists()

# SPDX-License-Identifier: Apache-2.0
"""An incomplete installation: the node starts all the same, or names the package that it lacks.

Packages are really removed, from a copy of the environment that consists of hard links: what a
shared library leaves behind when it is gone shows in no other way.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from absent_module import hide
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[2]
REQUIREMENTS = ("runtime.txt", "ros.txt", "export.txt")
START_S = 300.0
ACTIVE, NOT_CONFIGURED = "active, listening", "configure failed: "

pytestmark = [
    pytest.mark.ros,
    pytest.mark.timeout(2 * START_S),
    pytest.mark.skipif(sys.prefix == sys.base_prefix, reason="not in a virtual environment"),
]


def installed_requirements() -> list[str]:
    """All distributions that the requirements name or need, as far as pip installed them."""
    todo = []
    for name in REQUIREMENTS:
        for line in (REPOSITORY / "requirements" / name).read_text().splitlines():
            if text := line.split("#")[0].strip():
                todo.append(Requirement(text).name)
    found = set()
    while todo:
        name = canonicalize_name(todo.pop())
        if name in found:
            continue
        try:
            needed = map(Requirement, metadata.requires(name) or ())
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        todo += [r.name for r in needed if not r.marker or r.marker.evaluate({"extra": ""})]
    return sorted(found)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this virtual environment: directories of its own, the same files."""
    copy = tmp_path_factory.mktemp("incomplete") / "venv"
    if subprocess.run(["cp", "-a", "--link", sys.prefix, copy], check=False).returncode:
        pytest.skip(f"no hard links from {sys.prefix} to {copy}")
    return copy


@pytest.fixture
def without(environment: Path, tmp_path: Path) -> Iterator[object]:
    """Removes a distribution from the copy until the test ends."""
    moved: list[tuple[Path, Path]] = []

    def move(path: Path) -> None:
        if path.exists() or path.is_symlink():
            away = tmp_path / "removed" / str(len(moved))
            away.parent.mkdir(exist_ok=True)
            path.rename(away)
            moved.append((path, away))

    def remove(name: str) -> None:
        site = environment / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
        distribution = next(metadata.distributions(name=name, path=[str(site)]))
        own = {Path(os.path.normpath(site / file)) for file in distribution.files}
        folders = {folder for path in own for folder in path.parents if site in folder.parents}
        for folder in sorted(folders):
            everything = {p for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc"}
            if everything <= own:
                move(folder)
        for path in own:
            move(path)

    yield remove
    for path, away in reversed(moved):
        away.rename(path)


class Started:
    """The detector with a small model on whatever backend works.

    Args:
        python: Of the environment.
        model: Weights file.
        folder: For the log of a crash.
        more: Environment variables.
    """

    def __init__(self, python: Path, model: Path, folder: Path, **more: str) -> None:
        bootstrapped = ("LD_LIBRARY_PATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE")
        variables = {k: v for k, v in os.environ.items() if k not in bootstrapped}
        variables |= {"XDG_STATE_HOME": str(folder / "state")} | more
        command = [python, "-m", "anomaly_seg_ros.ros.detector", "--ros-args"]
        command += ["-p", f"model:={model}", "-p", "backend:=auto"]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=variables,
            cwd=REPOSITORY,
        )  # fmt: skip
        self.lines: list[str] = []
        watchdog = threading.Timer(START_S, process.kill)
        watchdog.start()
        for line in process.stdout:
            self.lines.append(line.rstrip())
            if ACTIVE in line or NOT_CONFIGURED in line:
                process.send_signal(signal.SIGINT)
        self.code = process.wait()
        watchdog.cancel()
        self.text = "\n".join(self.lines)

    @property
    def is_active(self) -> bool:
        """Whether the node got as far as listening, and ended well."""
        return self.code == 0 and ACTIVE in self.text

    def said(self) -> str:
        """The one line that says why it did not."""
        said = [
            line for line in self.lines if "detector: error: " in line or NOT_CONFIGURED in line
        ]
        assert len(said) == 1, self.text
        return said[0]


def names_of(distribution: str) -> set[str]:
    """The names under which people know a distribution: its own, and those of its modules."""
    files = metadata.distribution(distribution).files or ()
    modules = {file.parts[0].removesuffix(".py") for file in files if file.suffix == ".py"}
    return {distribution.lower(), *map(canonicalize_name, modules)}


@pytest.mark.exhaustive
@pytest.mark.parametrize("distribution", installed_requirements())
def test_without_any_one_package(distribution, environment, without, tiny_model, tmp_path):
    without(distribution)
    started = Started(environment / "bin" / "python", tiny_model, tmp_path)
    assert "Traceback" not in started.text, started.text
    if started.is_active:
        return
    line = started.said()
    words = {canonicalize_name(word) for word in re.findall(r"[\w.-]+", line)}
    assert words & names_of(distribution), started.text
    assert started.code == (0 if NOT_CONFIGURED in line else 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "module", ["packaging", pytest.param("openvino", marks=pytest.mark.thorough)]
)
def test_the_node_starts_on_another_backend(module, tiny_model, tmp_path):
    """openvino 2026.4.1 needs packaging to convert a model, and does not require it."""
    hide(module, tmp_path)
    started = Started(Path(sys.executable), tiny_model, tmp_path, PYTHONPATH=str(tmp_path))
    assert started.is_active, started.text
    reasons = [line for line in started.lines if "is not used: " in line]
    assert "backend 'openvino' is not used: " in reasons[0]
    assert all(module in line for line in reasons)
    assert re.search(r"backend '(onnxruntime|torch)' \(fp32\) takes its place", started.text)


@pytest.mark.parametrize(
    "module",
    [
        *("numpy", "rclpy"),
        *(
            pytest.param(module, marks=pytest.mark.thorough)
            for module in ("torch", "cv2", "safetensors", "std_msgs")
        ),
    ],
)
def test_what_nothing_can_replace_is_named_in_one_line(module, tiny_model, tmp_path):
    hide(module, tmp_path)
    started = Started(Path(sys.executable), tiny_model, tmp_path, PYTHONPATH=str(tmp_path))
    assert started.code == 1, started.text
    assert "Traceback" not in started.text
    assert module.replace("cv2", "opencv-python-headless") in started.said()
    (log,) = (tmp_path / "state" / "anomaly_seg_ros").iterdir()
    assert str(log) in started.said()
    assert "Traceback" in log.read_text()


@pytest.mark.slow
def test_without_vision_msgs_its_topics_are_missing_and_that_is_said_once(tiny_model, tmp_path):
    hide("vision_msgs", tmp_path)
    started = Started(Path(sys.executable), tiny_model, tmp_path, PYTHONPATH=str(tmp_path))
    assert started.is_active, started.text
    (line,) = [line for line in started.lines if "vision_msgs" in line]
    assert "~/label_info and ~/unknown_objects are not published: vision_msgs is not " in line

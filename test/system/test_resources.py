# SPDX-License-Identifier: Apache-2.0
"""Where the package looks for its own files, in a checkout and in installed trees."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from anomaly_seg_ros.errors import AnomalySegError
from anomaly_seg_ros.system import resources

REPOSITORY = Path(__file__).resolve().parents[2]

MODULE_FOLDERS = (
    f"lib/python3.{sys.version_info.minor}/site-packages",
    f"local/lib/python3.{sys.version_info.minor}/dist-packages",
    "lib/python3/dist-packages",
)


@pytest.fixture(params=MODULE_FOLDERS)
def installed(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """An installed tree: (its share folder, the folder that goes on sys.path)."""
    modules = tmp_path / "prefix" / request.param
    package = modules / "anomaly_seg_ros"
    (package / "system").mkdir(parents=True)
    modules_needed = ("__init__.py", "crash_log.py", "missing_packages.py", "resources.py")
    for name in ("__init__.py", "errors.py", *(f"system/{name}" for name in modules_needed)):
        shutil.copy(REPOSITORY / "anomaly_seg_ros" / name, package / name)
    (package / "weights").mkdir()
    share = tmp_path / "prefix" / "share" / "anomaly_seg_ros"
    (share / "config").mkdir(parents=True)
    (share / "config" / "detector.yaml").write_text("{}\n")
    return share, modules


def evaluate(expression: str, modules: Path, **environment: str) -> subprocess.CompletedProcess:
    """Prints an expression over ``resources`` in a process that sees only the given tree."""
    code = f"from anomaly_seg_ros.system import resources; print({expression})"
    # -S: without site-packages, so neither this checkout nor an ament index can help.
    command = [sys.executable, "-S", "-c", code]
    environment["PYTHONPATH"] = str(modules)
    return subprocess.run(
        command, env=environment, cwd=modules, capture_output=True, text=True, check=False
    )


def test_checkout_finds_its_own_config():
    expected = REPOSITORY / "config" / "taxonomies"
    assert resources.config_path("taxonomies") == expected
    assert expected.is_dir()


def test_installed_tree_finds_config_below_share(installed):
    share, modules = installed
    done = evaluate("resources.config_path('detector.yaml')", modules)
    assert done.stdout.strip() == str(share / "config" / "detector.yaml"), done.stderr


def test_installed_tree_finds_weights_beside_the_modules(installed):
    _, modules = installed
    done = evaluate("resources.weights_dir()", modules)
    assert done.stdout.strip() == str(modules / "anomaly_seg_ros" / "weights"), done.stderr


def test_missing_file_is_named_with_the_places_searched(installed):
    share, modules = installed
    done = evaluate("resources.asset_path('demo_clip')", modules)
    assert done.returncode != 0
    last_line = done.stderr.strip().splitlines()[-1]
    assert "assets/demo_clip" in last_line
    assert str(share) in last_line


def test_no_ros_is_needed(installed):
    _, modules = installed
    done = evaluate("'ament_index_python' in __import__('sys').modules", modules)
    assert done.stdout.strip() == "False", done.stderr


def test_ament_index_is_asked_when_nothing_lies_above(monkeypatch, tmp_path):
    pytest.importorskip("ament_index_python", reason="no ROS here")
    prefix = tmp_path / "prefix"
    marker = prefix / "share" / "ament_index" / "resource_index" / "packages" / "anomaly_seg_ros"
    config = prefix / "share" / "anomaly_seg_ros" / "config"
    for folder in (marker.parent, config):
        folder.mkdir(parents=True)
    marker.touch()
    (config / "detector.yaml").touch()
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(prefix))
    monkeypatch.setattr(resources, "_PACKAGE_FOLDER", tmp_path / "elsewhere" / "anomaly_seg_ros")
    assert resources.config_path("detector.yaml") == config / "detector.yaml"


@pytest.mark.parametrize("prefixes", ["", "/nonexistent"])
def test_useless_ament_index_ends_in_the_same_error(monkeypatch, tmp_path, prefixes):
    monkeypatch.setenv("AMENT_PREFIX_PATH", prefixes)
    monkeypatch.setattr(resources, "_PACKAGE_FOLDER", tmp_path / "anomaly_seg_ros")
    with pytest.raises(AnomalySegError, match=r"config/detector\.yaml.*no share folder"):
        resources.config_path("detector.yaml")


def test_installation_without_weights_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(resources, "_PACKAGE_FOLDER", tmp_path)
    with pytest.raises(AnomalySegError, match=str(tmp_path / "weights")):
        resources.weights_dir()

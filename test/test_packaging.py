# SPDX-License-Identifier: Apache-2.0
"""package.xml, setup.py, requirements and README agree with each other and with the tree."""

from __future__ import annotations

import ast
import importlib
import re
import runpy
import subprocess
import sys
import threading
from configparser import ConfigParser
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import setuptools
import yaml
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parent.parent

EXECUTABLES = {
    "compare",
    "convert_model",
    "dataset_to_bag",
    "demo",
    "detector",
    "evaluate",
    "evaluate_bag",
    "evaluate_folder",
    "export_model",
    "inject_faults",
    "inspect_model",
    "live",
    "segment",
}
# What tells an import of ROS from others; its name is also the one in package.xml.
ROS_PREFIXES = ("_msgs", "_srvs", "_interfaces")
ROS_MODULES = {"rclpy", "cv_bridge", "launch", "launch_ros", "ament_index_python", "tf2_ros"}
# What rosbags itself depends on; bags/reader.py catches the exceptions that escape from it.
ROSBAGS_PARTS = {"apsw", "backports", "compression"}


@pytest.fixture(scope="module")
def manifest():
    """package.xml, read by the parser that colcon uses."""
    package = pytest.importorskip("catkin_pkg.package", reason="catkin-pkg is not installed")
    return package.parse_package(str(REPOSITORY / "package.xml"))


@pytest.fixture(scope="module")
def setup_arguments() -> dict:
    """What setup.py hands to setuptools, without building anything."""
    captured: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        patch.setattr(setuptools, "setup", lambda **arguments: captured.update(arguments))
        runpy.run_path(str(REPOSITORY / "setup.py"))
    return captured


@pytest.fixture(scope="module")
def entry_points(setup_arguments) -> dict[str, EntryPoint]:
    lines = setup_arguments["entry_points"]["console_scripts"]
    pairs = [[part.strip() for part in line.split("=")] for line in lines]
    return {name: EntryPoint(name, value, "console_scripts") for name, value in pairs}


@pytest.fixture(scope="module")
def installed_files(setup_arguments) -> dict[str, str]:
    """Source file -> destination folder, for all of data_files."""
    return {file: folder for folder, files in setup_arguments["data_files"] for file in files}


def requirement_lines(name: str) -> list[str]:
    lines = (REPOSITORY / "requirements" / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-r "))]


def imported_modules(path: Path) -> set[str]:
    """Top-level names of everything a file imports, at any depth of the code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def is_ros(module: str) -> bool:
    return module in ROS_MODULES or module.endswith(ROS_PREFIXES)


def test_manifest_is_valid_format_3_for_ament_python(manifest):
    manifest.validate()
    assert manifest.package_format == 3
    assert manifest.get_build_type() == "ament_python"
    assert manifest.licenses == ["Apache-2.0"]


SCHEMA = Path("/usr/share/ament_xmllint/xml-catalog/download.ros.org/schema/package_format3.xsd")


@pytest.mark.skipif(not SCHEMA.is_file(), reason="Debian's python3-ament-xmllint is not installed")
def test_manifest_holds_to_the_schema(tmp_path):
    text = (REPOSITORY / "package.xml").read_text()
    misplaced = text.replace("<package format", "<package url='' format")
    for content, valid in ((text, True), (misplaced, False)):
        (tmp_path / "package.xml").write_text(content)
        done = subprocess.run(
            ["ament_xmllint", str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert (done.returncode == 0) is valid, done.stderr


def test_addresses_are_the_manifest_s_and_lead_nowhere_or_to_https(manifest, setup_arguments):
    urls = {url.type: url.url for url in manifest.urls}
    assert set(urls) == {"website", "repository", "bugtracker"}
    assert all(url.startswith("https://") for url in urls.values())
    assert setup_arguments["project_urls"] == urls


def test_setup_takes_name_and_version_from_the_manifest(manifest, setup_arguments):
    assert setup_arguments["name"] == manifest.name == "anomaly_seg_ros"
    assert setup_arguments["version"] == manifest.version


def test_scripts_say_their_licence():
    """As ruff's CPY001 asks of Python files."""
    scripts = [*REPOSITORY.glob("tools/**/*.sh"), *(REPOSITORY / ".ci").iterdir()]
    assert len(scripts) > 4
    for path in scripts:
        assert path.read_text().splitlines()[1] == "# SPDX-License-Identifier: Apache-2.0", path


def test_changelog_knows_the_version_or_has_unreleased_changes(manifest):
    headings = re.findall(r"^## \[(.+?)\]", (REPOSITORY / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] in ("Unreleased", manifest.version)


def test_every_ros_import_is_declared(manifest):
    declared = {depend.name for depend in manifest.exec_depends}
    sources = [
        *(REPOSITORY / "anomaly_seg_ros").rglob("*.py"),
        *(REPOSITORY / "launch").glob("*.py"),
    ]
    for path in sources:
        undeclared = {name for name in imported_modules(path) if is_ros(name)} - declared
        assert not undeclared, f"package.xml lacks {undeclared}, imported by {path}"


def test_executables_are_the_documented_ones(entry_points):
    assert set(entry_points) == EXECUTABLES


@pytest.mark.parametrize("name", sorted(EXECUTABLES))
def test_executable_imports(name, entry_points):
    if name == "detector":
        pytest.importorskip("rclpy", reason="no ROS here")
    folder = "ros" if name == "detector" else "cli"
    main = importlib.import_module(f"anomaly_seg_ros.{folder}.{name}").main
    entry = entry_points[name].load()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "excepthook", sys.excepthook)  # given back afterwards
        patch.setattr(threading, "excepthook", threading.excepthook)
        patch.setattr(sys.modules[main.__module__], "main", lambda: "its end")
        assert entry() == "its end"


def test_ros2_run_finds_executables_of_both_kinds_of_build():
    settings = ConfigParser()
    settings.read(REPOSITORY / "setup.cfg")
    assert settings["develop"]["script_dir"] == "$base/lib/anomaly_seg_ros"
    assert settings["install"]["install_scripts"] == "$base/lib/anomaly_seg_ros"


@pytest.mark.parametrize("folder", ["launch", "config", "assets"])
def test_shared_folders_are_installed_whole(folder, installed_files):
    found = [path for path in (REPOSITORY / folder).rglob("*") if path.is_file()]
    expected = [path for path in found if "__pycache__" not in path.parts]
    assert expected, f"{folder}/ is empty"
    for path in expected:
        relative = path.relative_to(REPOSITORY)
        destination = installed_files.get(str(relative))
        assert destination == f"share/anomaly_seg_ros/{relative.parent}", relative


def test_ament_index_marker_and_manifest_are_installed(installed_files):
    marker = installed_files["resource/anomaly_seg_ros"]
    assert marker == "share/ament_index/resource_index/packages"
    assert installed_files["package.xml"] == "share/anomaly_seg_ros"
    assert all((REPOSITORY / file).is_file() for file in installed_files)


def test_weights_are_installed_with_a_model_card(setup_arguments):
    files = setup_arguments["package_data"]["anomaly_seg_ros"]
    package = REPOSITORY / "anomaly_seg_ros"
    shipped = {str(path.relative_to(package)) for path in (package / "weights").iterdir()}
    assert shipped <= set(files)
    weights = [Path(file) for file in files if file.endswith(".safetensors")]
    assert weights, "no weights in package_data"
    for path in weights:
        assert str(path.with_suffix(".md")) in files, f"{path} has no model card"


def test_only_the_package_is_installed(setup_arguments):
    names = {name.split(".")[0] for name in setup_arguments["packages"]}
    assert names == {"anomaly_seg_ros"}


def test_every_python_folder_is_a_package(setup_arguments):
    modules = (REPOSITORY / "anomaly_seg_ros").rglob("*.py")
    folders = {".".join(path.relative_to(REPOSITORY).parent.parts) for path in modules}
    assert folders == set(setup_arguments["packages"])


@pytest.mark.parametrize(
    "name", ["runtime.txt", "ros.txt", "dev.txt", "export.txt", "optional.txt", "live.txt"]
)
def test_requirements_are_pinned_or_bounded(name):
    lines = requirement_lines(name)
    assert lines
    for line in lines:
        operators = {part.operator for part in Requirement(line).specifier}
        assert "==" in operators or {">=", "<"} <= operators, f"{name}: {line} has no bound"


def test_core_imports_only_what_its_requirements_bring():
    """Third-party modules of the package outside ros/ come with these files."""
    modules = {"opencv-python-headless": "cv2", "PyYAML": "yaml", "rerun-sdk": "rerun"}
    files = ("runtime.txt", "export.txt", "optional.txt", "live.txt")
    names = [Requirement(line).name for file in files for line in requirement_lines(file)]
    bring = {modules.get(name, name.lower().replace("-", "_")) for name in names}
    known = bring | ROSBAGS_PARTS | {"anomaly_seg_ros"}
    for path in (REPOSITORY / "anomaly_seg_ros").rglob("*.py"):
        foreign = imported_modules(path) - known - set(sys.stdlib_module_names)
        foreign = {name for name in foreign if not is_ros(name)}
        assert not foreign, f"{path} imports {foreign}, not in {files}"


def test_quality_declaration_answers_every_requirement():
    """As the chart of levels in REP 2004 numbers them."""
    counts = {1: 6, 2: 5, 3: 5, 4: 5, 5: 3, 6: 1, 7: 1}
    roman = ("i", "ii", "iii", "iv", "v", "vi")
    text = (REPOSITORY / "QUALITY_DECLARATION.md").read_text()
    rows = re.findall(r"^\| ([1-7]\.[^|]*)\|", text, re.M)
    answered = re.findall(r"\d\.[iv]+", " ".join(rows))
    assert answered == [f"{n}.{number}" for n, count in counts.items() for number in roman[:count]]


def test_rosdoc2_finds_its_configuration_and_what_that_names(manifest):
    (name,) = (export.content for export in manifest.exports if export.tagname == "rosdoc2")
    attic, config = yaml.safe_load_all((REPOSITORY / name).read_text())
    assert attic == {"type": "rosdoc2 config", "version": 1}
    (builder,) = config["builders"]
    assert (REPOSITORY / config["settings"]["python_source"] / "__init__.py").is_file()
    assert (REPOSITORY / builder["sphinx"]["user_doc_dir"] / "architecture.md").is_file()


def test_make_help_lists_every_public_target():
    makefile = REPOSITORY / "Makefile"
    done = subprocess.run(
        ["make", "-s", "-f", str(makefile), "help"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    listed = set(re.findall(r"^make ([a-z-]+) ", done.stdout, re.M))
    assert listed == set(re.findall(r"^([a-z-]+):.*##", makefile.read_text(), re.M))
    assert {"demo", "test", "evaluate", "lint", "train", "clean", "help"} <= listed

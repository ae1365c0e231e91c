# SPDX-License-Identifier: Apache-2.0
"""Build recipe for colcon (ament_python) and pip; name and version come from package.xml."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from setuptools import find_packages, setup

# colcon build --symlink-install runs a link to this file in its build folder.
SOURCE = Path(__file__).resolve().parent
MANIFEST = ElementTree.parse(SOURCE / "package.xml").getroot()
NAME = MANIFEST.findtext("name")
SHARE = Path("share") / NAME

# Whole folders that go to share/: what a user or a launch file opens by path.
SHARED_FOLDERS = ("launch", "config", "assets")
RESOURCE_SUFFIXES = {".safetensors", ".md", ".json", ".html", ".css", ".js", ".yaml", ".typed"}


def files_below(folder: str) -> list[Path]:
    """Every file in the folder, at any depth, relative to the repository root."""
    found = (path for path in (SOURCE / folder).rglob("*") if path.is_file())
    return sorted(path.relative_to(SOURCE) for path in found if "__pycache__" not in path.parts)


def data_files() -> list[tuple[str, list[str]]]:
    """(destination folder, files) pairs, one for each folder, as distutils wants them."""
    by_destination: dict[str, list[str]] = {
        "share/ament_index/resource_index/packages": [f"resource/{NAME}"],
        str(SHARE): ["package.xml"],
    }
    for folder in SHARED_FOLDERS:
        for path in files_below(folder):
            by_destination.setdefault(str(SHARE / path.parent), []).append(str(path))
    return sorted(by_destination.items())


def package_files() -> list[str]:
    """Weights, model cards and templates inside the package, relative to the package."""
    files = files_below(NAME)
    return [str(path.relative_to(NAME)) for path in files if path.suffix in RESOURCE_SUFFIXES]


def requirements(name: str) -> list[str]:
    """The lines of requirements/<name>.txt."""
    lines = (SOURCE / "requirements" / f"{name}.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def executables() -> list[str]:
    """Entry points, which are also what ``ros2 run anomaly_seg_ros`` lists."""
    tools = (
        *("compare", "convert_model", "dataset_to_bag", "demo", "detector", "evaluate"),
        *("evaluate_bag", "evaluate_folder", "export_model", "inject_faults", "inspect_model"),
        *("live", "segment"),
    )
    return [f"{tool} = {NAME}.cli.executables:{tool}" for tool in tools]


setup(
    name=NAME,
    version=MANIFEST.findtext("version"),
    description=" ".join(MANIFEST.findtext("description").split()),
    license=MANIFEST.findtext("license"),
    maintainer=MANIFEST.findtext("maintainer"),
    maintainer_email=MANIFEST.find("maintainer").get("email"),
    project_urls={url.get("type"): url.text for url in MANIFEST.iter("url")},
    python_requires=">=3.10",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={NAME: package_files()},
    data_files=data_files(),
    install_requires=requirements("runtime"),
    extras_require={
        # Not above: an apt ROS brings its own, and the wheels are for x86-64 Linux only.
        "ros": requirements("ros"),
        "export": requirements("export"),
        "optional": requirements("optional"),
        "live": requirements("live"),
    },
    zip_safe=False,
    entry_points={"console_scripts": executables()},
)

# SPDX-License-Identifier: Apache-2.0
"""The diffs of docs/extending.md apply to the tree, and what they add works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "docs" / "extending.md"
SECTIONS = dict(re.findall(r"^## (.+?)$(.*?)(?=^## |\Z)", PAGE.read_text(), flags=re.M | re.S))


def blocks(section: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", SECTIONS[section], flags=re.M | re.S)


def copy_or_link(source: str, target: str) -> None:
    if source.endswith(".safetensors"):
        Path(target).symlink_to(source)
    else:
        shutil.copyfile(source, target)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the sources, with links to the weights."""
    ignore = shutil.ignore_patterns("__pycache__", "images")
    for folder in ("anomaly_seg_ros", "training", "config", "docs"):
        shutil.copytree(
            REPOSITORY / folder, tmp_path / folder, copy_function=copy_or_link, ignore=ignore
        )
    for mark_of_a_checkout in ("package.xml", "setup.py"):
        shutil.copy(REPOSITORY / mark_of_a_checkout, tmp_path)
    return tmp_path


def test_the_page_has_a_section_for_each_row_of_its_table():
    rows = re.findall(r"^\| (a \w+(?: \w+)?) \|", PAGE.read_text(), flags=re.M)
    assert [row.capitalize() for row in rows] == list(SECTIONS)


@pytest.mark.parametrize("section", SECTIONS)
def test_a_diff_applies_and_what_it_adds_works(section: str, tree: Path):
    diffs, programs = blocks(section, "diff"), blocks(section, "python")
    assert diffs
    assert programs
    if section == "A topic":
        pytest.importorskip("rclpy", reason="no ROS here")
    for diff in diffs:
        applied = subprocess.run(
            ["git", "apply", "-"],
            input=diff,
            cwd=tree,
            text=True,
            capture_output=True,
            check=False,
        )
        assert applied.returncode == 0, f"{section}: {applied.stderr}"
    for program in programs:
        run = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, f"{section}: {run.stderr}"


@pytest.mark.parametrize("section", SECTIONS)
def test_the_table_names_the_files_that_a_diff_touches(section: str):
    row = re.search(rf"^\| {section.lower()} \| (.*?) \|", PAGE.read_text(), flags=re.M)
    named = re.findall(r"`([^`]+)`", row[1])
    (diff,) = blocks(section, "diff")
    files = re.findall(r"^--- a/(\S+)$", diff, flags=re.M)
    assert len(files) == len(named)
    assert all(any(file.startswith(name) for name in named) for file in files)

# SPDX-License-Identifier: Apache-2.0
"""requirements/locked/ fits the loose files, on every Python and machine that they are for."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).resolve().parent.parent / "requirements"
RENEW = "run `make lock`"

# Lock file -> what it is made of, and what constrains it (tools/lock.sh).
LOCKS = {
    "runtime.txt": (["runtime.txt", "ros.txt"], []),
    "live.txt": (["runtime.txt", "ros.txt", "live.txt"], []),
    "dev.txt": (["runtime.txt", "ros.txt", "dev.txt", "live.txt"], []),
    "apt-runtime.txt": (["runtime.txt"], ["apt.txt"]),
    "apt-dev.txt": (["runtime.txt", "dev.txt"], ["apt.txt"]),
    "colcon.txt": (["colcon.txt"], []),
    "messages.txt": (["messages.txt"], []),
}
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
# The ROS wheels exist for x86-64 only; on top of an apt ROS there are ARM boards as well.
MACHINES = {name: ["x86_64"] for name in ("runtime.txt", "live.txt", "dev.txt", "messages.txt")}
BOTH = ["x86_64", "aarch64"]


class Pin(NamedTuple):
    requirement: Requirement
    version: str
    hashes: int
    via: set[str]


@cache
def loose(name: str) -> list[Requirement]:
    """The requirements of a loose file and of those that it includes."""
    found: list[Requirement] = []
    for line in (FOLDER / name).read_text().splitlines():
        if line.startswith("-r "):
            found += loose(line.removeprefix("-r ").strip())
        elif line and not line.startswith("#"):
            found.append(Requirement(line))
    return found


@cache
def locked(name: str) -> list[Pin]:
    pins = []
    for entry in re.split(r"^(?=[A-Za-z0-9])", (FOLDER / "locked" / name).read_text(), flags=re.M):
        if not entry.strip() or entry.startswith("#"):
            continue
        requirement = Requirement(entry.splitlines()[0].removesuffix("\\").strip())
        (pin,) = requirement.specifier
        assert pin.operator == "==", f"{name}: {requirement} is no pin"
        via = set(re.findall(r"-[rc] ([\w./-]+)", entry))
        pins.append(Pin(requirement, pin.version, entry.count("--hash=sha256:"), via))
    return pins


def environment(python: str, machine: str) -> dict[str, str]:
    return {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }


def applies(requirement: Requirement, where: dict[str, str]) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(where)


def versions(name: str, where: dict[str, str]) -> dict[str, str]:
    """Package -> the version that pip installs there; two for one package are an error."""
    found: dict[str, str] = {}
    for pin in locked(name):
        if applies(pin.requirement, where):
            package = canonicalize_name(pin.requirement.name)
            assert found.setdefault(package, pin.version) == pin.version, f"{name}: two {package}"
    return found


@pytest.mark.parametrize("name", LOCKS)
@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_is_locked_at_a_version_that_it_allows(name, python):
    files, constraints = LOCKS[name]
    for machine in MACHINES.get(name, BOTH):
        where = environment(python, machine)
        installed = versions(name, where)
        for requirement in [line for file in files for line in loose(file)]:
            if not applies(requirement, where):
                continue
            version = installed.get(canonicalize_name(requirement.name))
            assert version, f"locked/{name} lacks {requirement} for Python {python}: {RENEW}"
            assert requirement.specifier.contains(version, prereleases=True), (
                f"locked/{name}: {version} is not {requirement}: {RENEW}"
            )
        for held_back in [line for file in constraints for line in loose(file)]:
            version = installed.get(canonicalize_name(held_back.name))
            assert version is None or held_back.specifier.contains(version), (
                f"locked/{name}: {version} is not {held_back}: {RENEW}"
            )


@pytest.mark.parametrize("name", LOCKS)
def test_nothing_is_locked_for_a_line_that_is_gone(name):
    named = {
        file: {canonicalize_name(line.name) for line in loose(file)}
        for file in (path.name for path in FOLDER.glob("*.txt"))
    }
    for pin in locked(name):
        direct = [file for file in pin.via if not file.startswith("locked/")]
        package = canonicalize_name(pin.requirement.name)
        if pin.via:
            assert any(package in named[file] for file in direct) or direct == [], (
                f"locked/{name}: {package} stands for a line of {direct} that is gone: {RENEW}"
            )


@pytest.mark.parametrize("name", LOCKS)
def test_every_version_has_hashes(name):
    assert locked(name)
    assert not [str(pin.requirement) for pin in locked(name) if not pin.hashes]


@pytest.mark.parametrize("prefix", ["", "apt-"])
@pytest.mark.parametrize("python", PYTHONS)
def test_the_runtime_is_a_part_of_the_environment_for_development(prefix, python):
    """Installing one after the other changes nothing."""
    where = environment(python, "x86_64")
    runtime, dev = (versions(f"{prefix}{stage}.txt", where) for stage in ("runtime", "dev"))
    assert runtime.items() <= dev.items()


def test_the_lock_files_are_those_that_are_tested():
    assert {path.name for path in (FOLDER / "locked").glob("*.txt")} == set(LOCKS)

# SPDX-License-Identifier: Apache-2.0
"""The watch sees what it is there for, also where a reader swallows it."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from tools.fuzzing.target import Attack, Target
from tools.fuzzing.watch import CANARY, OUTSIDE, Forbidden


def attack(attempt, folder: Path) -> Attack:
    return Attack(Target("x", "x", attempt, list), folder)


def secret(folder: Path) -> Path:
    return folder.parent / OUTSIDE / "secret.yaml"


def _import(data: bytes, folder: Path) -> None:
    with contextlib.suppress(ImportError):
        __import__(CANARY)


ATTACKS = {
    "a command": lambda data, folder: os.system("true"),  # noqa: S605
    "a process": lambda data, folder: subprocess.run(["true"], check=True),
    "code": lambda data, folder: exec("x = 1"),  # noqa: S102
    "an expression": lambda data, folder: eval("1 + 1"),  # noqa: S307
    "a foreign module": _import,
    "a file beside its folder": lambda data, folder: (folder.parent / "new").write_text("x"),
    "a file that is removed": lambda data, folder: secret(folder).unlink(),
    "a file that is read": lambda data, folder: secret(folder).read_text(),
    "a way out": lambda data, folder: (folder / ".." / OUTSIDE / "secret.yaml").read_text(),
}  # fmt: skip


@pytest.mark.parametrize("what", ATTACKS)
@pytest.mark.parametrize("swallowed", [False, True])
def test_forbidden_things_are_seen(tmp_path: Path, what: str, swallowed: bool) -> None:
    def attempt(data: bytes, folder: Path) -> None:
        if swallowed:
            with contextlib.suppress(BaseException):
                ATTACKS[what](data, folder)
        else:
            ATTACKS[what](data, folder)

    with pytest.raises(Forbidden):
        attack(attempt, tmp_path)(b"")
    assert not (tmp_path / "new").exists()


def test_a_reader_may_use_its_own_folder(tmp_path: Path) -> None:
    def attempt(data: bytes, folder: Path) -> None:
        (folder / "new").mkdir()
        (folder / "new" / "file").write_bytes(data)
        (folder / "new" / "file").rename(folder / "moved")
        assert (folder / "moved").read_bytes() == data
        (folder / "moved").unlink()

    assert attack(attempt, tmp_path)(b"x")


def test_other_exceptions_pass(tmp_path: Path) -> None:
    def attempt(data: bytes, folder: Path) -> None:
        raise KeyError(data)

    with pytest.raises(KeyError):
        attack(attempt, tmp_path)(b"x")

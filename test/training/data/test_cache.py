# SPDX-License-Identifier: Apache-2.0
"""Where caches are, and that a training goes on without them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import BinaryIO, NoReturn

import pytest

from training.data.cache import VARIABLE, cache_folder, cache_path, store


def write(file: BinaryIO) -> None:
    file.write(b"content")


def test_the_tests_leave_the_home_alone(tmp_path: Path) -> None:
    assert cache_folder().is_relative_to(tmp_path)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({VARIABLE: "/a/b", "XDG_CACHE_HOME": "/c"}, "/a/b"),
        ({VARIABLE: "~/a"}, "/home/robot/a"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/anomaly_seg_ros"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/robot/.cache/anomaly_seg_ros"),
        ({VARIABLE: "", "XDG_CACHE_HOME": ""}, "/home/robot/.cache/anomaly_seg_ros"),
        ({}, "/home/robot/.cache/anomaly_seg_ros"),
    ],
)
def test_the_folder(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name in (VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/robot", **variables}.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (VARIABLE, "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert cache_folder() == Path("/.cache/anomaly_seg_ros")


def test_a_relative_folder_stays_where_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "here")
    assert cache_path("objects", "a").parent == tmp_path / "here" / "objects"


def test_a_file_for_each_kind_and_key() -> None:
    paths = [cache_path(kind, key) for kind in ("objects", "frames") for key in ("a", "b")]
    assert len(set(paths)) == 4
    assert cache_path("objects", "a") == paths[0]
    assert cache_path("objects", "a", ".json").suffix == ".json"


def test_stored() -> None:
    path = cache_path("objects", "a")
    assert store(path, write, needed=7)
    assert path.read_bytes() == b"content"
    assert list(path.parent.iterdir()) == [path]


def full(file: BinaryIO) -> NoReturn:
    file.write(b"con")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_fills_costs_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    first, second = cache_path("objects", "a"), cache_path("objects", "b")
    store(first, write)
    assert not store(first, full)
    assert not store(second, full)
    assert first.read_bytes() == b"content"
    assert list(first.parent.iterdir()) == [first]
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert first.name in record.message
    assert "No space left on device" in record.message


def test_too_little_space_is_seen_in_advance(caplog: pytest.LogCaptureFixture) -> None:
    assert not store(cache_path("objects", "a"), write, needed=1 << 62)
    assert "the disk has" in caplog.text


def test_a_folder_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file"))
    assert not store(cache_path("objects", "a"), write)
    assert "file/objects: cannot create the folder" in caplog.text
    assert VARIABLE in caplog.text

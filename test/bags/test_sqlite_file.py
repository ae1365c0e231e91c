# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from anomaly_seg_ros.bags import BagReader
from anomaly_seg_ros.errors import BagError

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"
CRASH = """
import os, sqlite3, sys
path, journal, statements = sys.argv[1:]
database = sqlite3.connect(path, isolation_level=None)
database.execute("PRAGMA cache_size=1")
database.execute(f"PRAGMA journal_mode={journal}")
database.execute("PRAGMA wal_autocheckpoint=0")
for statement in statements.split(";"):
    database.execute(statement)
os._exit(1)
"""
# Of a bag with one message the message five times more.
MORE = "INSERT INTO messages SELECT id + ?, topic_id, timestamp + ?, data FROM messages".replace(
    "?", "{0}"
)


def recorded(foreign, frames: int = 2) -> Path:
    """A bag of frames 1 to ``frames``, closed well."""
    bag = foreign()
    for stamp in range(1, frames + 1):
        bag.image("/cam", stamp, np.full((40, 60), stamp, np.uint8), "mono8")
    return bag.close()


def crash(database: Path, journal: str, statements: str) -> None:
    """Runs statements in a process that ends without closing the database."""
    arguments = [sys.executable, "-c", CRASH, str(database), journal, statements]
    assert subprocess.run(arguments, check=False).returncode == 1


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stamps(path: Path) -> list[int]:
    with BagReader(path) as reader:
        return [frame.stamp_ns for frame in reader.frames()]


@pytest.mark.parametrize("has_shm", [True, False])
@pytest.mark.parametrize("is_folder", [True, False])
def test_a_write_ahead_log_is_read_and_left_as_it_is(foreign, has_shm, is_folder):
    bag = recorded(foreign)
    database = next(bag.glob("*.db3"))
    crash(database, "WAL", MORE.format(10))
    assert (bag / f"{database.name}-wal").stat().st_size > 0
    if not has_shm:
        (bag / f"{database.name}-shm").unlink()
    before = contents(bag)
    assert len(stamps(bag if is_folder else database)) == 4
    assert contents(bag) == before


@pytest.mark.parametrize("name", ["a b#c?d%20ü", "%2e%2e", "плёнка 1"])
def test_paths_of_any_characters(foreign, tmp_path, name):
    bag = recorded(foreign)
    crash(next(bag.glob("*.db3")), "WAL", MORE.format(10))
    bag = bag.rename(tmp_path / name)
    assert len(stamps(bag)) == 4


def test_a_write_ahead_log_behind_a_link(foreign, tmp_path):
    bag = recorded(foreign)
    database = next(bag.glob("*.db3"))
    crash(database, "WAL", MORE.format(10))
    (tmp_path / "store").mkdir()
    for path in bag.glob("*.db3*"):
        path.rename(tmp_path / "store" / path.name)
    database.symlink_to(tmp_path / "store" / database.name)
    assert len(stamps(bag)) == 4


def test_a_transaction_that_was_not_finished_is_rolled_back_in_a_copy(foreign):
    bag = recorded(foreign)
    database = next(bag.glob("*.db3"))
    changed = (
        "UPDATE messages SET data = zeroblob(length(data)); DELETE FROM messages WHERE id > 0"
    )
    crash(database, "DELETE", f"BEGIN; {changed}")
    assert (bag / f"{database.name}-journal").stat().st_size > 0
    before = contents(bag)
    with BagReader(bag) as reader:
        assert [int(f.to_rgb()[0, 0, 0]) for f in reader.frames()] == [1, 2]
    assert contents(bag) == before


def test_no_room_to_roll_back_is_said(foreign, monkeypatch):
    bag = recorded(foreign)
    database = next(bag.glob("*.db3"))
    crash(database, "DELETE", "BEGIN; UPDATE messages SET data = zeroblob(9)")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(BagError, match=r"\.db3: its recorder crashed.*No space left.*sqlite3 "):
        BagReader(bag)


def test_a_finished_journal_is_no_matter(foreign):
    bag = recorded(foreign)
    database = next(bag.glob("*.db3"))
    for ending, data in (("-journal", bytes(512)), ("-wal", b"")):
        (bag / f"{database.name}{ending}").write_bytes(data)
    assert stamps(bag) == [1, 2]


def test_a_copy_that_ended_early_is_cut_short(foreign):
    database = next(recorded(foreign).glob("*.db3"))
    data = database.read_bytes()
    for size in (50, 4096, len(data) - 1):
        database.write_bytes(data[:size])
        with pytest.raises(BagError, match=rf"\.db3: cut short: {size} bytes of"):
            BagReader(database)


def test_other_databases_are_no_bags(tmp_path):
    connection = sqlite3.connect(tmp_path / "a.db3")
    connection.execute("CREATE TABLE notes(text)")
    connection.commit()
    connection.close()
    with pytest.raises(BagError, match=r"a\.db3: not a bag \(a SQLite file without the tables"):
        BagReader(tmp_path / "a.db3")


@pytest.mark.skipif(not CASES.is_dir(), reason="no ../shared/cases")
def test_the_bag_of_a_recorder_that_crashed(tmp_path):
    assert len(stamps(CASES / "bags" / "wal_crashed")) == 9
    assert len(stamps(CASES / "bags" / "wal_crashed" / "wal.db3")) == 9
    assert not os.access(CASES, os.W_OK) or len(list((CASES / "bags/wal_crashed").iterdir())) == 4

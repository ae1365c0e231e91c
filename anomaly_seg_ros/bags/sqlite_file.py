# SPDX-License-Identifier: Apache-2.0
"""Reads SQLite files of rosbag2, including the logs that a crashed recorder left beside them.

A SQLite file can hold code as well as tables: an endless view may pose as the expected table. So
only plain tables are read. Nothing is ever written to the file's folder.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import apsw

from anomaly_seg_ros.bags.storage import Channel, Place, Storage, damage
from anomaly_seg_ros.errors import BagError

SQLITE_MAGIC = b"SQLite format 3\0"
_JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
# Offsets in the header of a database (https://sqlite.org/fileformat2.html#the_database_header).
_PAGE_SIZE, _CHANGES, _PAGES, _VALID_FOR = 16, 24, 28, 92


class SqliteFile(Storage):
    """An open SQLite file of a bag.

    Messages in a write-ahead log are read, too. A transaction that a crash interrupted is rolled
    back in a temporary copy.

    Raises:
        BagError: The file is cut short, damaged, no bag, or holds anything but plain tables.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: apsw.Connection | None = None
        self._copy: tempfile.TemporaryDirectory | None = None
        self._blob: apsw.Blob | None = None
        try:
            with damage(path):
                _check_size(path)
                self._connection = self._open()
                self._connection.execute("PRAGMA trusted_schema=OFF")
                _check_schema(self._connection, path)
                self.channels = [
                    Channel(*row)
                    for row in self._connection.execute(
                        "SELECT topics.id, name, type, serialization_format, count(messages.id) "
                        "FROM topics LEFT JOIN messages ON topics.id = messages.topic_id "
                        "GROUP BY topics.id ORDER BY topics.id"
                    )
                ]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """See :class:`Storage`."""
        if self._blob is not None:
            self._blob.close(True)
        if self._connection is not None:
            self._connection.close(True)
        if self._copy is not None:
            self._copy.cleanup()
        self._blob = self._connection = self._copy = None

    def scan(self, channels: frozenset[int], size: int) -> Iterator[tuple[Place, bytes]]:
        """See :class:`Storage`."""
        query = (
            "SELECT id, topic_id, timestamp FROM messages "
            "WHERE topic_id IN (SELECT value FROM json_each(?)) ORDER BY id"
        )
        with damage(self.path):
            for row, channel, recorded in self._open_file.execute(
                query, (json.dumps(sorted(channels)),)
            ):
                yield Place(channel, recorded, row), self._data(row, size)

    def read(self, place: Place) -> bytes:
        """See :class:`Storage`."""
        with damage(self.path):
            return self._data(place.key, None)

    @property
    def _open_file(self) -> apsw.Connection:
        if self._connection is None:
            raise BagError(f"{self.path}: read after it was closed")
        return self._connection

    def _data(self, row: int, size: int | None) -> bytes:
        """The first bytes of a message; a SQL query would read all of it."""
        if self._blob is None:
            self._blob = self._open_file.blob_open("main", "messages", "data", row, False)
        else:
            self._blob.reopen(row)
        return self._blob.read(self._blob.length() if size is None else size)

    def _open(self) -> apsw.Connection:
        path, options = self.path, "immutable=1"
        if _is_hot(_beside(path, "-journal")):
            self._copy = _copied(path)
            path, options = Path(self._copy.name) / "bag.db3", "mode=rw"
        elif _size(_beside(path, "-wal")):
            options = "mode=ro"
        flags = apsw.SQLITE_OPEN_URI
        flags |= apsw.SQLITE_OPEN_READWRITE if self._copy else apsw.SQLITE_OPEN_READONLY
        # Without locks and in exclusive mode SQLite keeps the log's index in memory instead of in
        # a file beside it, and does not write the log into the database.
        connection = apsw.Connection(
            f"file:{quote(str(path.absolute()))}?{options}", flags=flags, vfs="unix-none"
        )
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        return connection


def _check_size(path: Path) -> None:
    with path.open("rb") as file:
        header, size = file.read(100), file.seek(0, 2)
    if len(header) == 100 and header[_CHANGES : _CHANGES + 4] != header[_VALID_FOR:][:4]:
        return  # written by an old SQLite, which does not state the size
    page = int.from_bytes(header[_PAGE_SIZE : _PAGE_SIZE + 2], "big")
    stated = int.from_bytes(header[_PAGES : _PAGES + 4], "big") * (65536 if page == 1 else page)
    if len(header) < 100 or size < stated:
        raise BagError(
            f"cut short: {size} bytes of {stated or 'more'}; copy it again, or "
            f"`sqlite3 {path} .recover` saves what is whole"
        )


def _check_schema(connection: apsw.Connection, path: Path) -> None:
    """Refuses SQLite files with anything but plain tables and indices."""
    entries = [
        (str(kind), str(name), str(sql or ""))
        for kind, name, sql in connection.execute("SELECT type, name, sql FROM sqlite_master")
    ]
    for kind, name, sql in entries:
        if kind not in ("table", "index"):
            raise BagError(
                f"damaged bag ({path.name} has a {kind} '{name}'; a bag has tables only)"
            )
        if kind == "table" and sql.upper().startswith("CREATE VIRTUAL"):
            raise BagError(f"damaged bag ({path.name} has a virtual table '{name}')")
        if kind == "table" and _has_computed_columns(connection, name):
            raise BagError(f"damaged bag ({path.name} has computed columns in '{name}')")
    if {"topics", "messages"} - {name for _, name, _ in entries}:
        raise BagError("not a bag (a SQLite file without the tables 'topics' and 'messages')")


def _has_computed_columns(connection: apsw.Connection, table: str) -> bool:
    columns = connection.execute("SELECT hidden FROM pragma_table_xinfo(?)", (table,))
    return any(hidden for (hidden,) in columns)


def _beside(path: Path, ending: str) -> Path:
    # SQLite looks beside the file itself, not beside a link to it.
    return Path(f"{path.resolve()}{ending}")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _is_hot(journal: Path) -> bool:
    """True if a rollback journal holds an unfinished transaction."""
    if not _size(journal):
        return False
    with journal.open("rb") as file:
        return file.read(len(_JOURNAL_MAGIC)) == _JOURNAL_MAGIC


def _copied(path: Path) -> tempfile.TemporaryDirectory:
    """A folder with a copy of the database and its journal."""
    folder = tempfile.TemporaryDirectory(prefix="anomaly_seg_ros_")
    try:
        for ending in ("", "-journal"):
            source = _beside(path, ending)
            shutil.copyfile(source, Path(folder.name) / f"bag.db3{ending}")
    except OSError as error:
        folder.cleanup()
        raise BagError(
            f"its recorder crashed, and to repair a copy failed ({error.strerror}); "
            f"`sqlite3 {path} 'PRAGMA integrity_check'` repairs the file itself"
        ) from error
    return folder

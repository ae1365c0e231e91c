"""What rosbags leaves unchecked in the files of a bag, before it and while it reads them.

A SQLite file is a program as much as a table: a view that never ends stands where a table is
expected. A compressed chunk of some kilobytes unpacks to gigabytes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import quote

import apsw
from lz4.frame import LZ4FrameDecompressor
from rosbags.rosbag2 import ReaderError, storage_mcap

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor, ZstdError
else:
    from backports.zstd import ZstdDecompressor, ZstdError

__all__ = ["ZstdError", "check_sqlite_files", "limit_chunks", "unpacked_message"]

# Unpacked, in bytes: far above a chunk (1 MB as most recorders write it) or an image.
LARGEST_CHUNK = 1 << 29
_SQLITE_MAGIC = b"SQLite format 3\0"
# rosbags puts the path into an URI as it is.
_SPECIAL_IN_URI = "%?#"


def check_sqlite_files(bag: Path) -> None:
    """Refuses SQLite files with anything but plain tables and indices.

    Args:
        bag: A file, or the folder whose files are checked.

    Raises:
        ReaderError: Names the file and what it holds.
        apsw.Error: A damaged file.
        OSError: An unreadable one.
    """
    files = [bag] if bag.is_file() else [path for path in bag.iterdir() if path.is_file()]
    for path in files:
        with path.open("rb") as file:
            is_sqlite = file.read(len(_SQLITE_MAGIC)) == _SQLITE_MAGIC
        if is_sqlite or path.suffix == ".db3":
            if found := [character for character in _SPECIAL_IN_URI if character in str(path)]:
                raise ReaderError(f"SQLite files are not read from a path with {found[0]!r}")
            _check_schema(path)


def _check_schema(path: Path) -> None:
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    connection = apsw.Connection(f"file:{quote(str(path))}?immutable=1", flags=flags)
    try:
        connection.execute("PRAGMA trusted_schema=OFF")
        entries = connection.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
        for kind, name, sql in entries:
            if kind not in ("table", "index"):
                raise ReaderError(f"{path.name} has a {kind} '{name}'; a bag has tables only")
            if kind == "table" and (sql or "").upper().startswith("CREATE VIRTUAL"):
                raise ReaderError(f"{path.name} has a virtual table '{name}'")
            if kind == "table" and _has_computed_columns(connection, name):
                raise ReaderError(f"{path.name} has computed columns in '{name}'")
    finally:
        connection.close()


def _has_computed_columns(connection: apsw.Connection, table: str) -> bool:
    columns = connection.execute("SELECT hidden FROM pragma_table_xinfo(?)", (table,))
    return any(hidden for (hidden,) in columns)


def unpacked_message(data: bytes) -> bytes:
    """A message of a bag that is compressed message by message.

    Raises:
        ReaderError: Incomplete, or larger than any message.
        ZstdError: Damaged.
    """
    return _unpack_zstd(data, LARGEST_CHUNK)


def _unpack_zstd(data: bytes, most: int) -> bytes:
    """Unpacks all frames of ``data``, up to ``most`` bytes."""
    parts, left, size = [], data, 0
    while left:
        decompressor = ZstdDecompressor()
        parts.append(decompressor.decompress(left, max_length=most + 1 - size))
        size += len(parts[-1])
        if size > most:
            raise ReaderError(f"compressed data unpack to more than the {most} bytes stated")
        if not decompressor.eof:
            raise ReaderError("compressed data end too early")
        left = decompressor.unused_data
    return b"".join(parts)


def _unpack_lz4(data: bytes, most: int) -> bytes:
    decompressor = LZ4FrameDecompressor()
    unpacked = decompressor.decompress(data, max_length=most + 1)
    if len(unpacked) > most:
        raise ReaderError(f"compressed data unpack to more than the {most} bytes stated")
    return unpacked


def limit_chunks() -> None:
    """Lets rosbags unpack no more of an MCAP chunk than the chunk states, nor than the largest.

    It hands the stated size to its decompressors, which ignore it; a chunk of another size is an
    error to it anyway.
    """

    def limited(size: int) -> int:
        if size > LARGEST_CHUNK:
            raise ReaderError(f"a chunk of {size} bytes, more than {LARGEST_CHUNK}")
        return size

    storage_mcap.DECOMPRESSORS["zstd"] = lambda data, size: _unpack_zstd(data, limited(size))
    storage_mcap.DECOMPRESSORS["lz4"] = lambda data, size: _unpack_lz4(data, limited(size))

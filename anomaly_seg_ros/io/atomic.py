"""Writing files whole or not at all, and telling files apart by their content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anomaly_seg_ros.errors import OutputError

_CHUNK_BYTES = 1 << 20


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to, which replaces ``path`` if the block ends well.

    The name keeps the suffix, by which some writers choose the format, and holds the process's id,
    so that two processes do not share it. Nothing half-written stays; errors pass through.
    """
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        if partial.is_file():
            partial.unlink()


def write_atomically(path: str | Path, content: bytes) -> None:
    """Writes a whole file, or leaves what was there before.

    Args:
        path: Target; missing folders above it are made.
        content: The file's bytes.

    Raises:
        OutputError: The file cannot be written; nothing half-written is left.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()

# SPDX-License-Identifier: Apache-2.0
"""Atomic writes, and digests of files."""

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
    """Gives a file beside ``path`` to write to, which replaces ``path`` if the block succeeds.

    Its name keeps the suffix, by which some writers choose the format, and has the process id, so
    that two processes do not share it. No partial file stays behind; errors pass through.
    """
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        if partial.is_file():
            partial.unlink()


def write_atomically(path: str | Path, content: bytes) -> None:
    """Writes a whole file, or leaves the old one untouched.

    Args:
        path: The file; missing parent folders are made.
        content: The file's bytes.

    Raises:
        OutputError: The file cannot be written; no partial file is left.
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

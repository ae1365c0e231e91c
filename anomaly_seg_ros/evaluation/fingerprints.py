"""Telling whether files are still the ones that figures were made of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def of_files(paths: Iterable[Path]) -> str:
    """A digest of names, sizes and times of change; the contents are not read."""
    digest = hashlib.sha256()
    for path in paths:
        # Resolved: the same files, wherever the tool is started from.
        digest.update(f"{path.resolve()} {_state(path)}\n".encode())
    return digest.hexdigest()[:16]


def of_folder(folder: Path) -> str:
    """:func:`of_files` for all files below a folder; for a file the file's own."""
    below = (path for path in folder.rglob("*") if path.is_file())
    return of_files(sorted(below) if folder.is_dir() else [folder])


def _state(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"

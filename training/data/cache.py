# SPDX-License-Identifier: Apache-2.0
"""Folder of what is slow to find out about a data set and cheap to keep, such as an index.

``$ANOMALY_SEG_CACHE``, or ``anomaly_seg_ros`` in ``$XDG_CACHE_HOME`` or ``~/.cache``. A cache
never stops a training: without a place for it, one warning says so, and the work is done again at
the next start.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from anomaly_seg_ros.errors import OutputError
from training.engine.storage import make_folder, write_atomically

VARIABLE = "ANOMALY_SEG_CACHE"
_LOG = logging.getLogger(__name__)
_unwritable: set[Path] = set()


def cache_folder() -> Path:
    """The folder of all caches, which need not exist."""
    if chosen := os.environ.get(VARIABLE):
        # In a service or a container, no shell has replaced "~".
        return Path(os.path.expanduser(chosen)).absolute()  # noqa: PTH111 - never fails
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification ignores relative paths.
    return (home if home.is_absolute() else _home() / ".cache") / "anomaly_seg_ros"


def cache_path(kind: str, key: str, suffix: str = ".npz") -> Path:
    """File in which a cache is, or would be.

    Args:
        kind: What is cached, such as "objects"; the subfolder.
        key: Everything that tells this cache from others of its kind: absolute folders, options. A
            state that changes, such as a file's time, belongs into the file instead, so that the
            new cache replaces the old one.
        suffix: Suffix of the file.
    """
    return cache_folder() / kind / (hashlib.sha256(key.encode()).hexdigest()[:32] + suffix)


def files_state(paths: Iterable[Path]) -> str:
    """Text that changes when one of the files does: their names, sizes and times.

    A missing file has a state, too; it is reported when it is read.
    """
    digest = hashlib.sha256()
    for path in paths:
        state = path.stat() if path.exists() else None
        known = f"{state.st_size} {state.st_mtime_ns}" if state else "missing"
        digest.update(f"{path} {known}\n".encode())
    return digest.hexdigest()


def store(path: Path, write: Callable[[BinaryIO], None], needed: int = 0) -> bool:
    """Writes a cache completely, or warns once for each folder that it cannot.

    Args:
        path: File from :func:`cache_path`; missing folders are created.
        write: Writes the content to an open file.
        needed: Expected size in bytes.

    Returns:
        Whether the file was written. If not, nothing partial remains.
    """
    try:
        make_folder(path.parent)
        write_atomically(path, write, needed)
    except OutputError as error:
        if path.parent not in _unwritable:
            _unwritable.add(path.parent)
            _LOG.warning("not cached, so the next start takes as long (%s): %s", VARIABLE, error)
        return False
    return True


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # a user without an entry, for whom containers set HOME=/
        return Path("/")

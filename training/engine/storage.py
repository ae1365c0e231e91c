# SPDX-License-Identifier: Apache-2.0
"""Files of a run, written completely or not at all.

A write that does not fit on the disk is refused in advance if its size is known. In any case it
leaves the previous file untouched.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from anomaly_seg_ros.checkpoints.pickles import DAMAGED
from anomaly_seg_ros.errors import CheckpointError, OutputError
from anomaly_seg_ros.io.atomic import replacing

# Size of everything except the tensors: keys, pickle structure, zip entries.
_OVERHEAD_BYTES = 1 << 20


def make_folder(path: Path) -> None:
    """Creates a folder and its parents.

    Raises:
        OutputError: The folder cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot create the folder: {error}") from error


def tensor_bytes(value: Any) -> int:
    """Total bytes of all tensors in nested dicts, lists and tuples."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(tensor_bytes(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return sum(tensor_bytes(item) for item in value)
    return 0


def check_free_space(path: Path, needed: int) -> None:
    """Refuses a write that does not fit on the disk.

    Args:
        path: File to be written.
        needed: Its size in bytes.

    Raises:
        OutputError: There is too little free space, or the folder is missing.
    """
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error}") from error
    if free < needed:
        raise OutputError(
            f"{path}: not written, it needs {needed / 1e6:.1f} MB and the disk has "
            f"{free / 1e6:.1f} MB free; what was there before is untouched"
        )


def write_atomically(path: Path, write: Callable[[BinaryIO], None], needed: int = 0) -> None:
    """Writes a file so that a kill or a full disk leaves either the old file or the new one.

    Args:
        path: File to write.
        write: Writes the content to an open file.
        needed: Expected size in bytes.

    Raises:
        OutputError: The file cannot be written; the old one is untouched, nothing partial remains.
    """
    check_free_space(path, needed)
    try:
        with replacing(path) as partial, partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
    # torch.save wraps a failed write into a RuntimeError.
    except (OSError, RuntimeError) as error:
        raise OutputError(
            f"{path}: cannot be written: {error}; what was there before is untouched"
        ) from error


def save_atomically(state: Mapping[str, Any], path: Path) -> None:
    """Writes a checkpoint with :func:`write_atomically`.

    Args:
        state: Nested tensors and plain values.
        path: File to write, ``*.pt``.

    Raises:
        OutputError: See :func:`write_atomically`.
    """
    needed = tensor_bytes(state) + _OVERHEAD_BYTES
    write_atomically(path, lambda file: torch.save(state, file), needed)


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Reads a checkpoint written by :func:`save_atomically`.

    Raises:
        CheckpointError: The file is missing, damaged, or holds more than tensors and plain values.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint") from error
    except DAMAGED as error:
        raise CheckpointError(f"{path}: not a readable checkpoint: {error}") from error

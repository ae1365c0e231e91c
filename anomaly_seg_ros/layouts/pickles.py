"""Reads what ``torch.save`` wrote without running anything that is pickled in it."""

from __future__ import annotations

import contextlib
import pickle
import re
import struct
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from anomaly_seg_ros.documents import shown
from anomaly_seg_ros.errors import CheckpointError
from anomaly_seg_ros.layouts.opcodes import check_nesting

# Kind and size of the NumPy scalars that are read: bool, integers, floats.
_PLAIN_DTYPE = re.compile(r"b1|[iu][1248]|f[248]")
_BYTE_ORDERS = frozenset("<>=|")
# What torch wrote before 1.6 begins with: magic number, version, system, content, storage keys.
_LEGACY_PICKLES = 5
_REFUSED_GLOBAL = re.compile(r"GLOBAL (\S+)")
# First bytes of what a download leaves in place of a checkpoint.
_NOT_WEIGHTS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run git lfs pull",
    b"<": "a web page, not weights; the download failed, open its address in a browser",
    b"\x08": "probably an ONNX model, which is a program and not weights",
}


# What torch's reader raises on a damaged file, found by fuzzing.
DAMAGED = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError),
    *(MemoryError, OSError, RuntimeError, TypeError, ValueError),
    *(pickle.UnpicklingError, struct.error, zipfile.BadZipFile),
)


class _PlainDtype:
    """Stands in for ``numpy.dtype`` while a file is read: accepts plain numbers only."""

    def __init__(self, code: str, *_flags: object) -> None:
        if not isinstance(code, str) or not _PLAIN_DTYPE.fullmatch(code):
            raise pickle.UnpicklingError(f"GLOBAL numpy.dtype({code!r})")
        self.code = code
        self.byte_order = "="

    def __setstate__(self, state: tuple) -> None:
        if state[1] not in _BYTE_ORDERS:
            raise pickle.UnpicklingError(f"GLOBAL numpy.dtype of byte order {state[1]!r}")
        self.byte_order = state[1]


def _plain_scalar(dtype: _PlainDtype, data: bytes) -> bool | int | float:
    """Stands in for ``numpy.core.multiarray.scalar``."""
    if not isinstance(dtype, _PlainDtype) or not isinstance(data, bytes):
        raise pickle.UnpicklingError("GLOBAL numpy.core.multiarray.scalar of an object")
    return np.frombuffer(data, np.dtype(dtype.byte_order + dtype.code), 1)[0].item()


# What torch's reader may call under these names. Metrics are often saved as NumPy scalars; NumPy's
# own functions are never called with what a file says.
_STAND_INS = [
    (_PlainDtype, "numpy.dtype"),
    (_plain_scalar, "numpy.core.multiarray.scalar"),
    (_plain_scalar, "numpy._core.multiarray.scalar"),  # as NumPy 2 writes it
]


def unpickle(path: Path) -> tuple[Any, str]:
    """Reads a file of ``torch.save``: tensors, containers, plain values, NumPy scalars.

    Args:
        path: In torch's zip format or the one before 1.6. Tensors of a zip file are mapped into
            memory: what is not used is not read.

    Returns:
        The content, with NumPy scalars as Python numbers; and the name of the format.

    Raises:
        CheckpointError: Damaged, not of torch, or with anything else pickled in it; the message
            names what was refused.
    """
    zipped = False
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:
            _check_members(path)
        else:
            with path.open("rb") as file:
                _check_pickles(file, _LEGACY_PICKLES)
        with torch.serialization.safe_globals(_STAND_INS):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except DAMAGED as error:
        refused = _refused_globals(path, str(error)) if zipped else _names(str(error))
        reason = _refusal(refused) if refused else _unreadable(path, str(error))
        raise CheckpointError(f"{path}: {reason}") from error
    return content, "torch zip" if zipped else "torch before 1.6"


def _check_members(path: Path) -> None:
    """Refuses an archive that would grow: torch.save stores its members as they are."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.filename.endswith("/constants.pkl") for member in members):
            raise zipfile.BadZipFile("TorchScript")
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED:
                raise zipfile.BadZipFile(f"member {shown(member.filename)} is compressed")
        size = sum(member.file_size for member in members)
        if size > path.stat().st_size:
            raise zipfile.BadZipFile(f"its members have {size} bytes, more than the file")
        for member in members:
            if member.filename.endswith(".pkl"):
                with archive.open(member) as file:
                    _check_pickles(file, 1)


def _check_pickles(file: IO[bytes], count: int) -> None:
    """Looks at the pickles at the beginning of a file; torch reports what is damaged in them."""
    with contextlib.suppress(ValueError, LookupError, EOFError):
        for _ in range(count):
            check_nesting(file)


def _names(message: str) -> list[str]:
    """The functions and classes that torch's message says it did not call."""
    return _REFUSED_GLOBAL.findall(message)


def _refused_globals(path: Path, message: str) -> list[str]:
    """All of them in the file, where torch stopped at the first."""
    names = _names(message)
    if names:
        allowed = {name for _, name in _STAND_INS}
        with contextlib.suppress(*DAMAGED):
            found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            names = sorted({*names, *found} - allowed)
    return names


def _refusal(names: list[str]) -> str:
    return (
        f"refused, it is more than weights: rebuilding {', '.join(names)} would run pickled "
        "code. Save the state dict alone, where the file is trusted: "
        "torch.save(network.state_dict(), FILE)"
    )


def _unreadable(path: Path, message: str) -> str:
    start = b""
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(32)
    for signature, what in _NOT_WEIGHTS.items():
        if start.lstrip().startswith(signature):
            return what
    if "TorchScript" in message:
        return (
            "a TorchScript archive, which is a program; where it is trusted, save its weights: "
            "torch.save(torch.jit.load(FILE).state_dict(), NEW)"
        )
    first = message.strip().splitlines()[0] if message.strip() else "it ends too early"
    return f"not a readable checkpoint, it is damaged or was not written by torch.save: {first}"

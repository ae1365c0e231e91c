# SPDX-License-Identifier: Apache-2.0
"""Reads what ``torch.save`` wrote without running anything that is pickled in it."""

from __future__ import annotations

import contextlib
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from anomaly_seg_ros.checkpoints.tensor_files import kind_of
from anomaly_seg_ros.errors import CheckpointError, first_line
from anomaly_seg_ros.io.safe_yaml_json import short_repr

# Kind and size of the NumPy scalars that are read: bool, integers, floats.
_PLAIN_DTYPE = re.compile(r"b1|[iu][1248]|f[248]")
_BYTE_ORDERS = frozenset("<>=|")
# A file that torch wrote before 1.6: magic number, version, system, content, storage keys.
_LEGACY_PICKLES = 5
_LEGACY_START = pickle.dumps(0x1950A86A20F9469CFC6C, 2)  # torch.serialization.MAGIC_NUMBER
_REFUSED_GLOBAL = re.compile(r"GLOBAL (\S+)")
# How torch refuses a pickle: with advice to read it unsafely, which is never passed on.
_ADVICE = re.compile(r"weights_only|Weights only load failed")
_ENDS_EARLY = re.compile(r"unexpected EOF|Ran out of input|truncated|finding central directory")
# torch nests them two deep, in the arguments of its rebuilding functions.
DEEPEST_TUPLES = 16
_MARK = -1
_PUT = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_GET = ("GET", "BINGET", "LONG_BINGET")
_TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")


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


# What torch's reader calls in place of these names. Metrics are often saved as NumPy scalars;
# NumPy's own functions are never called with arguments from a file.
_STAND_INS: list[tuple[Callable[..., Any], str]] = [
    (_PlainDtype, "numpy.dtype"),
    (_plain_scalar, "numpy.core.multiarray.scalar"),
    (_plain_scalar, "numpy._core.multiarray.scalar"),  # as NumPy 2 writes it
]


def unpickle(path: Path) -> tuple[Any, str]:
    """Reads a file of ``torch.save``: tensors, containers, plain values, NumPy scalars.

    Args:
        path: In torch's zip format or the one before 1.6. Tensors of a zip file are mapped into
            memory, so that unused ones are not read.

    Returns:
        The content, with NumPy scalars as Python numbers; and the name of the format.

    Raises:
        CheckpointError: Damaged, not written by torch, or with anything else pickled in it; names
            what was refused.
    """
    kind_of(path)
    zipped = False
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:
            _check_members(path)
        else:
            with path.open("rb") as file:
                if not _check_pickles(file, _LEGACY_PICKLES):
                    _check_end(file)
        with torch.serialization.safe_globals([*_STAND_INS]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols, in four lines
            content = _load(path, zipped)
    except DAMAGED as error:
        refused = _refused_globals(path, str(error)) if zipped else _names(str(error))
        reason = _refusal(refused) if refused else _unreadable(error)
        raise CheckpointError(f"{path}: {reason}") from error
    return content, "torch zip" if zipped else "torch before 1.6"


def _load(path: Path, mapped: bool) -> Any:
    # From a path of this name torch reads safetensors, whatever the content; and only a path can
    # be mapped into memory.
    if path.suffix == ".safetensors":
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def _check_members(path: Path) -> None:
    """Refuses an archive that would grow when unpacked: torch.save does not compress."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.filename.endswith("/constants.pkl") for member in members):
            raise zipfile.BadZipFile("TorchScript")
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED:
                raise zipfile.BadZipFile(f"member {short_repr(member.filename)} is compressed")
        size = sum(member.file_size for member in members)
        if size > path.stat().st_size:
            raise zipfile.BadZipFile(f"its members have {size} bytes, more than the file")
        for member in members:
            if member.filename.endswith(".pkl"):
                with archive.open(member) as file:
                    _check_pickles(file, 1)


def _check_pickles(file: IO[bytes], count: int) -> bool:
    """Checks the first ``count`` pickles of a file; torch reports what is damaged in them.

    Returns:
        Whether the file has that many.
    """
    with contextlib.suppress(ValueError, LookupError, EOFError):
        for _ in range(count):
            check_nesting(file)
        return True
    return False


def _check_end(file: IO[bytes]) -> None:
    """Refuses a file of torch before 1.6 that ends within its pickles.

    Otherwise a truncated name would be reported as a refused function.
    """
    if file.read(1):
        return
    file.seek(0)
    start = file.read(len(_LEGACY_START))
    if start == _LEGACY_START[: len(start)]:
        raise EOFError


def _names(message: str) -> list[str]:
    """The functions and classes that torch, by its message, refused to call."""
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


def _unreadable(error: BaseException) -> str:
    """One line, in our own words where torch's would mislead."""
    message = str(error).strip()
    if "TorchScript" in message:
        return (
            "a TorchScript archive, which is a program; where it is trusted, save its weights: "
            "torch.save(torch.jit.load(FILE).state_dict(), NEW)"
        )
    if isinstance(error, EOFError) or _ENDS_EARLY.search(message):
        return "damaged: cut short; copy or download it again"
    reason = "not a readable checkpoint, it is damaged or was not written by torch.save"
    return reason if not message or _ADVICE.search(message) else f"{reason}: {first_line(error)}"


def check_nesting(stream: IO[bytes]) -> None:
    """Walks over the opcodes of one pickle, without running any.

    Args:
        stream: At the beginning of the pickle; afterwards at its end, where nothing is damaged.

    Raises:
        UnpicklingError: Tuples in tuples deeper than :data:`DEEPEST_TUPLES`.
        ValueError, IndexError: No pickle, or a damaged one.
    """
    stack: list[int] = []  # depth of tuples of each object, or the mark
    memo: dict[Any, int] = {}
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in _PUT:
            memo[len(memo) if opcode.name == "MEMOIZE" else argument] = stack[-1]
        elif opcode.name in _GET:
            stack.append(memo.get(argument, 0))
        elif opcode.name == "DUP":
            stack.append(stack[-1])
        elif opcode.name == "MARK":
            stack.append(_MARK)
        else:
            taken = _take(stack, opcode)
            depth = 0
            if opcode.name in _TUPLES:
                depth = 1 + max(taken, default=0)
                if depth > DEEPEST_TUPLES:
                    raise pickle.UnpicklingError("it nests tuples too deeply")
            stack += [depth] * len(opcode.stack_after)


def _take(stack: list[int], opcode: pickletools.OpcodeInfo) -> list[int]:
    """Removes what an opcode takes from the stack, down to the mark where it takes a slice."""
    below = opcode.stack_before
    taken = []
    if pickletools.markobject in below:
        while (depth := stack.pop()) != _MARK:
            taken.append(depth)
        below = below[: below.index(pickletools.markobject)]
    return taken + [stack.pop() for _ in below]

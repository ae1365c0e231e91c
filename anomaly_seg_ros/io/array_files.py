# SPDX-License-Identifier: Apache-2.0
"""Reads arrays and archives of unknown origin, refusing any that are larger than expected.

NumPy allocates whatever size the header of an array states, and a compressed archive of some
kilobytes may hold gigabytes.
"""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

# What NumPy and zipfile raise on damaged files, found by fuzzing.
DAMAGED = (
    *(OSError, ValueError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(MemoryError, RuntimeError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
LARGEST = 1 << 32
# Bytes of a header in the .npy format, with alignment.
_HEADER = 1 << 16


def read_npy(path: Path) -> np.ndarray:
    """Reads the array of a ``.npy`` file, allocating no more than the file's size.

    Raises:
        One of :data:`DAMAGED`.
    """
    # A memory map cannot be larger than its file; without objects there are no pickles.
    return np.array(np.load(path, mmap_mode="r", allow_pickle=False))


def read_npz(path: str | Path, largest: int = LARGEST) -> dict[str, np.ndarray]:
    """Reads all arrays of an ``.npz`` file.

    Args:
        path: The file.
        largest: Most bytes of all arrays together, unpacked.

    Raises:
        One of :data:`DAMAGED`.
    """
    with zipfile.ZipFile(path) as archive:
        # zipfile reads no more of a member than its stated size.
        if (size := sum(member.file_size for member in archive.infolist())) > largest + _HEADER:
            raise ValueError(f"its arrays have {size} bytes, more than {largest}")
        return {
            member.filename.removesuffix(".npy"): _member(archive, member)
            for member in archive.infolist()
        }


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as file:
        return read_stream(file, member.file_size)


def read_stream(file: IO[bytes], length: int) -> np.ndarray:
    """Reads the array of a stream in the ``.npy`` format.

    Args:
        file: The stream.
        length: Length of the stream in bytes; a header that states more is refused.

    Raises:
        One of :data:`DAMAGED`.
    """
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"arrays of version {version} are not read")
    if dtype.hasobject:
        raise ValueError("it holds pickled objects")
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or dtype.itemsize == 0 or size > length:
        raise ValueError(f"an array of shape {shape} and type {dtype} does not fit {length} bytes")
    flat = np.frombuffer(bytearray(file.read(size)), dtype)
    return flat.reshape(shape, order="F" if fortran_order else "C")

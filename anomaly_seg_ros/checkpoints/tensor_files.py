# SPDX-License-Identifier: Apache-2.0
"""Files of weights: what kind a file is, by its content, and safetensors read and written.

Names such as ``.pth`` promise nothing, so the first bytes decide.
"""

from __future__ import annotations

import json
import re
import struct
import zipfile
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import NoReturn

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from anomaly_seg_ros.errors import CheckpointError, OutputError, first_line
from anomaly_seg_ros.io.safe_yaml_json import short_repr

EXPECTED = "a safetensors file, or a state dict that torch.save wrote"
_LONGEST_HEADER = 100_000_000  # as the safetensors library has it
_LENGTH = struct.Struct("<Q")
_TEXT_SHOWN = 60
_AGAIN = "copy or download it again"
_IS_PROGRAM = "a program and not weights; give the checkpoint that it was made from"
# First bytes -> what the file is.
_OTHERS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run git lfs pull",
    b"GGUF": f"unsupported: a GGUF file; expected {EXPECTED}",
    b"\x89HDF\r\n": f"unsupported: an HDF5 file, as Keras writes; expected {EXPECTED}",
    b"\x93NUMPY": f"unsupported: a NumPy array; expected {EXPECTED}",
    b"ftrt": f"unsupported: a TensorRT engine, {_IS_PROGRAM}",
    b"\x1f\x8b": "a gzip archive; unpack it, and give the file of weights in it",
    b"BZh": "a bzip2 archive; unpack it, and give the file of weights in it",
    b"\xfd7zXZ": "an xz archive; unpack it, and give the file of weights in it",
    b"\x28\xb5\x2f\xfd": "a zstd archive; unpack it, and give the file of weights in it",
    b"7z\xbc\xaf": "a 7z archive; unpack it, and give the file of weights in it",
    b"Rar!": "a rar archive; unpack it, and give the file of weights in it",
    # Protocol buffers: field 1, the version of the format, and a small number.
    b"\x08": f"unsupported: probably an ONNX model, {_IS_PROGRAM}",
}
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_WEB_PAGE = (b"<!doctype html", b"<html", b"<head", b"<body", b"<script")
_UNKNOWN_TYPE = re.compile(r"Dtype not understood: (\w+)|unknown variant `(\w+)`")
# What the reader raises: its own errors, and others for data types that torch lacks.
_DAMAGED = (
    *(SafetensorError, OSError, AttributeError, LookupError, MemoryError),
    *(OverflowError, RuntimeError, TypeError, ValueError),
)


class Kind(Enum):
    """Formats of weights that are read."""

    SAFETENSORS = "safetensors"
    TORCH = "torch"


def check_readable(path: Path) -> None:
    """Says why a file cannot be opened, if it cannot.

    Raises:
        CheckpointError: Not found, a folder, not a plain file, no permission, or empty.
    """
    try:
        if path.is_dir():
            raise CheckpointError(f"{path}: a folder, not a file{_offer(path)}")
        if not path.exists():
            raise CheckpointError(f"no such file: {path}")
        if not path.is_file():
            raise CheckpointError(f"{path}: not a plain file")
        with path.open("rb") as file:
            if not file.read(1):
                raise CheckpointError(
                    f"{path}: not a readable checkpoint, damaged: the file is empty; {_AGAIN}"
                )
    except PermissionError as error:
        raise CheckpointError(f"{path}: no permission to read it") from error
    except (OSError, ValueError) as error:  # such as a name with a null byte
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def kind_of(path: Path) -> Kind:
    """The format of a file of weights.

    Raises:
        CheckpointError: It cannot be opened, is cut short as far as its beginning tells, or is
            something else; says what, and what to give instead.
    """
    check_readable(path)
    with path.open("rb") as file:
        start = file.read(512)
    size = path.stat().st_size
    if _is_safetensors(start):
        _check_length(path, size)
        return Kind.SAFETENSORS
    if start.startswith(_ZIP) or _is_archive(path):
        _check_archive(path)
        return Kind.TORCH
    if start.startswith(_PICKLE):
        return Kind.TORCH
    raise CheckpointError(f"{path}: {_what_else(start)}")


def save_tensors(path: Path, module: nn.Module, header: Mapping[str, str]) -> None:
    """Writes a module's tensors as safetensors; an interrupted write leaves no file.

    Args:
        path: The file.
        module: The module whose state dict is written.
        header: Texts by key, stored beside the tensors.

    Raises:
        OutputError: The folder is missing or not writable.
    """
    partial = path.with_suffix(".partial")
    tensors = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
    try:
        save_file(tensors, partial, dict(header))
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {error}") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads a safetensors file.

    Returns:
        Tensors by key, and the header's texts.

    Raises:
        CheckpointError: Missing, damaged, of another format, or of types that torch lacks.
    """
    if kind_of(path) is not Kind.SAFETENSORS:
        raise CheckpointError(f"{path}: written by torch.save, where safetensors were expected")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            return {key: file.get_tensor(key) for key in file.keys()}, header  # noqa: SIM118
    except _DAMAGED as error:
        if unknown := _UNKNOWN_TYPE.search(str(error)):
            raise CheckpointError(
                f"{path}: unsupported: tensors of type {next(filter(None, unknown.groups()))}, "
                "which torch has not; save it as float32 or float16"
            ) from error
        raise CheckpointError(f"{path}: damaged safetensors file: {first_line(error)}") from error


def _is_safetensors(start: bytes) -> bool:
    """Eight bytes of length, and JSON."""
    if len(start) < _LENGTH.size + 1:
        return False
    (length,) = _LENGTH.unpack_from(start)
    return 2 <= length <= _LONGEST_HEADER and start[_LENGTH.size :].lstrip()[:1] == b"{"


def _check_length(path: Path, size: int) -> None:
    """Refuses a safetensors file that is shorter than its header says."""
    with path.open("rb") as file:
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
        if _LENGTH.size + length > size:
            _cut_short(path, size, _LENGTH.size + length)
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for key, entry in header.items() if key[:2] != "__"]
            needed = _LENGTH.size + length + max(ends, default=0)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return  # the library says what is wrong with it
    if size < needed:
        _cut_short(path, size, needed)


def _cut_short(path: Path, size: int, needed: int) -> NoReturn:
    raise CheckpointError(
        f"{path}: damaged safetensors file: cut short, {size} of its {needed} bytes; {_AGAIN}"
    )


def _is_archive(path: Path) -> bool:
    """Whether a zip archive ends here."""
    try:
        return zipfile.is_zipfile(path)
    except (zipfile.BadZipFile, struct.error):  # it has an end, which makes no sense
        return True


def _check_archive(path: Path) -> None:
    """Refuses zip archives that torch.save did not write."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, LookupError, OSError, NotImplementedError) as error:
        if _is_archive(path):
            return  # damaged; torch's reader says more
        raise CheckpointError(
            f"{path}: damaged: cut short, the end of the archive is missing; {_AGAIN}"
        ) from error
    last = {name.rsplit("/", 1)[-1] for name in names}
    if "data.pkl" in last or "constants.pkl" in last:
        return
    if "serialized_exported_program.json" in last or "archive_format" in last:
        raise CheckpointError(f"{path}: unsupported: a torch.export program (.pt2), {_IS_PROGRAM}")
    if last and all(name.endswith(".npy") for name in last):
        raise CheckpointError(f"{path}: unsupported: NumPy arrays (.npz); expected {EXPECTED}")
    some = ", ".join(short_repr(name) for name in names[:3]) or "nothing"
    raise CheckpointError(
        f"{path}: not a readable checkpoint, an archive that torch.save did not write ({some}); "
        "unpack it, and give the file of weights in it"
    )


def _what_else(start: bytes) -> str:
    """What a file without weights is, and what to give instead."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    lower = text.lower()
    for signature, what in _OTHERS.items():
        if start.startswith(signature) or text.startswith(signature):
            return what
    if start[4:8] == b"TFL3":
        return f"unsupported: a TensorFlow Lite model, {_IS_PROGRAM}"
    if start[257:262] == b"ustar":
        return "a tar archive; unpack it, and give the file of weights in it"
    if text.startswith(b"<"):
        if b"<net " in lower and not any(sign in lower for sign in _WEB_PAGE):
            return f"unsupported: an OpenVINO model, {_IS_PROGRAM}"
        return "a web page, not weights; the download failed, open its address in a browser"
    if b'"weight_map"' in lower:
        return (
            "unsupported: the list of weights that lie in several files; "
            "join them into one safetensors file"
        )
    if words := _as_text(start):
        return (
            f"not a readable checkpoint, but a text that begins {short_repr(words)}; "
            f"expected {EXPECTED}"
        )
    return f"not a readable checkpoint: damaged, or in an unsupported format; expected {EXPECTED}"


def _as_text(start: bytes) -> str:
    """The first words if the file is text, else nothing."""
    try:
        text = start.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":  # which only cuts the last letter
            return ""
        text = start[: error.start].decode("utf-8").strip()
    if not text or not all(letter.isprintable() or letter.isspace() for letter in text):
        return ""
    return " ".join(text.split())[:_TEXT_SHOWN]


def _offer(folder: Path) -> str:
    """Files of weights in a folder, as words to add."""
    endings = {".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar"}
    found = sorted(p.name for p in folder.iterdir() if p.suffix in endings and p.is_file())
    return f"; give a file, such as {', '.join(found[:3])} in it" if found else ""

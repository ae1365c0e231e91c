"""Safetensors files: tensors by key and texts in the header."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from anomaly_seg_ros.checkpoints.file_kinds import Kind, kind_of
from anomaly_seg_ros.errors import CheckpointError, OutputError, first_line

_UNKNOWN_TYPE = re.compile(r"Dtype not understood: (\w+)|unknown variant `(\w+)`")
# What the reader raises; beside its own errors those for data types that torch has not.
_DAMAGED = (
    *(SafetensorError, OSError, AttributeError, LookupError, MemoryError),
    *(OverflowError, RuntimeError, TypeError, ValueError),
)


def save_tensors(path: Path, module: nn.Module, header: Mapping[str, str]) -> None:
    """Writes a module's tensors as safetensors, so that an interrupted write leaves no file.

    Args:
        path: The file.
        module: Any.
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
        CheckpointError: Missing, damaged, of another format, or of types that torch has not.
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

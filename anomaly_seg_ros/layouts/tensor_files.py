"""Safetensors files: tensors by key and texts in the header."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from anomaly_seg_ros.errors import CheckpointError, OutputError

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
        CheckpointError: Missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            return {key: file.get_tensor(key) for key in file.keys()}, header  # noqa: SIM118
    except _DAMAGED as error:
        raise CheckpointError(f"{path}: missing or damaged safetensors file: {error}") from error

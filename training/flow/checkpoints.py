"""Files of flow weights: safetensors with the size's name in the header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save

from anomaly_seg_ros.checkpoints.fit import load_strictly
from anomaly_seg_ros.checkpoints.tensor_files import read_tensors
from anomaly_seg_ros.errors import CheckpointError
from training.engine.storage import make_folder, write_atomically
from training.flow.dense_flow import DenseFlow
from training.flow.sizes import SIZES

_NAME = "dense_flow"
_PROVENANCE = "provenance"


def save_flow(path: Path, flow: DenseFlow, provenance: dict[str, Any]) -> None:
    """Writes weights, atomically, and the folder around them.

    Args:
        path: ``*.safetensors``.
        flow: Built by :meth:`DenseFlow.by_name`.
        provenance: Plain values: data, settings, figures.

    Raises:
        OutputError: It cannot be written.
    """
    make_folder(path.parent)
    tensors = {k: v.detach().cpu().contiguous() for k, v in flow.state_dict().items()}
    content = save(tensors, {_NAME: flow.name, _PROVENANCE: json.dumps(provenance)})
    write_atomically(path, lambda file: file.write(content), len(content))


def load_flow(path: Path, checkpointing: bool = False) -> DenseFlow:
    """Reads what :func:`save_flow` wrote.

    Args:
        path: The file.
        checkpointing: See :class:`DenseFlow`.

    Raises:
        CheckpointError: Missing, damaged, not a flow, or not fitting its size.
    """
    tensors, header = read_tensors(path)
    if header.get(_NAME) not in SIZES:
        raise CheckpointError(
            f"{path}: no flow of a known size ({_NAME} is {header.get(_NAME)!r} in its header, "
            f"known are {', '.join(SIZES)})"
        )
    flow = DenseFlow.by_name(header[_NAME], checkpointing)
    load_strictly(flow, tensors, str(path))
    return flow

"""Loading and saving models: strict, safe, and never half.

Own files are safetensors with :class:`ModelMetadata` in the header. Other files are recognised by
their keys and shapes (see :mod:`anomaly_seg_ros.checkpoints`); nothing in them is executed, and
everything that is left out or filled in is logged.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from anomaly_seg_ros.checkpoints.checkpoint_file import read_checkpoint
from anomaly_seg_ros.checkpoints.file_kinds import check_readable
from anomaly_seg_ros.checkpoints.fit import compare
from anomaly_seg_ros.checkpoints.metadata import METADATA_KEY, ModelMetadata
from anomaly_seg_ros.checkpoints.recognise import recognise
from anomaly_seg_ros.checkpoints.tensor_files import read_tensors, save_tensors
from anomaly_seg_ros.errors import CheckpointError
from anomaly_seg_ros.models.registry import build_network, network_class
from anomaly_seg_ros.system.resources import weights_dir

__all__ = [
    "SHIPPED",
    "load_model",
    "load_strictly",
    "read_tensors",
    "resolve_model",
    "save_model",
    "save_tensors",
    "with_output_stride",
]
_LOG = logging.getLogger(__name__)
# Shipped weights by model name.
SHIPPED = {
    "default": "deeplab_lite0_open_set.safetensors",
    "closed_set": "deeplab_lite0.safetensors",
    "erfnet_open_set": "erfnet_open_set.safetensors",
}
_ERFNET_FILE = "erfnet_cityscapes.pth"


def resolve_model(model: str | Path) -> Path:
    """Finds the file behind a model name.

    Args:
        model: ``default`` (the shipped weights), ``closed_set`` (the shipped weights that these
            were fine-tuned from), ``erfnet_open_set`` (shipped as well), ``erfnet`` (the public
            checkpoint, looked for in ``$ANOMALY_SEG_WEIGHTS`` and in ``../shared/weights`` beside
            a source checkout), or a file.

    Raises:
        CheckpointError: There is no such file, or it cannot be opened.
    """
    if str(model) in SHIPPED:
        path = weights_dir() / SHIPPED[str(model)]
    elif str(model) == "erfnet":
        folders = [Path(__file__).resolve().parents[3] / "shared" / "weights"]
        if "ANOMALY_SEG_WEIGHTS" in os.environ:
            folders.insert(0, Path(os.environ["ANOMALY_SEG_WEIGHTS"]))
        found = [f / _ERFNET_FILE for f in folders if (f / _ERFNET_FILE).is_file()]
        if not found:
            raise CheckpointError(
                f"model 'erfnet': no {_ERFNET_FILE} in {' or '.join(map(str, folders))}; "
                "set ANOMALY_SEG_WEIGHTS to its folder"
            )
        path = found[0]
    else:
        path = Path(model).expanduser()
    try:
        check_readable(path)
    except CheckpointError as error:
        raise CheckpointError(f"model {str(model)!r}: {error}") from error
    return path


def load_model(model: str | Path) -> tuple[nn.Module, ModelMetadata]:
    """Loads a network and its metadata.

    Args:
        model: See :func:`resolve_model`.

    Returns:
        The network in eval mode on the CPU, in float32, and its metadata.

    Raises:
        CheckpointError: Missing, truncated, unsafe, of unknown layout, or with keys that do not
            fit the network exactly.
    """
    path = resolve_model(model)
    found = recognise(read_checkpoint(path))
    for note in (*found.changes, *found.remarks):
        _LOG.warning("%s: %s", path, note)
    metadata = found.metadata
    if found.misfit:  # before a network of whatever size the file asks for is built
        wanted = network_class(metadata.architecture).__name__
        raise CheckpointError(f"{path} does not fit {wanted}: {found.why_not()}")
    network = build_network(metadata.architecture, metadata.arguments)
    load_strictly(network, found.tensors, str(path))
    num_classes = network.num_classes
    if num_classes != len(metadata.classes):
        raise CheckpointError(
            f"{path}: the network has {num_classes} classes, its metadata {len(metadata.classes)}"
        )
    return network.eval(), with_output_stride(metadata, network, str(path))


def with_output_stride(metadata: ModelMetadata, network: nn.Module, source: str) -> ModelMetadata:
    """Takes the output stride from the network, which metadata must not contradict.

    Args:
        metadata: Without ``output_stride`` in old files.
        network: That was built from them.
        source: File name for errors.

    Raises:
        CheckpointError: The metadata state another one.
    """
    stride = network.output_stride
    if metadata.output_stride not in (None, stride):
        raise CheckpointError(
            f"{source}: the network's output stride is {stride}, its metadata's "
            f"{metadata.output_stride}"
        )
    return replace(metadata, output_stride=stride)


def save_model(path: Path, network: nn.Module, metadata: ModelMetadata) -> None:
    """Writes weights and metadata, so that an interrupted write leaves no file.

    Raises:
        CheckpointError: The metadata state another output stride than the network's.
        OutputError: The folder is missing or not writable.
    """
    complete = with_output_stride(metadata, network, str(path))
    save_tensors(path, network, {METADATA_KEY: complete.to_json()})


def load_strictly(network: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Loads all keys or none.

    Args:
        network: Receives the tensors.
        state_dict: Tensors by key.
        source: File name for errors.

    Raises:
        CheckpointError: Lists missing, unexpected and mis-shaped keys.
    """
    misfit = compare(network.state_dict(), state_dict)
    if misfit:
        raise CheckpointError(f"{source} does not fit {type(network).__name__}: {misfit}")
    network.load_state_dict(state_dict, strict=True)

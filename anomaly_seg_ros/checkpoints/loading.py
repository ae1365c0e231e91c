# SPDX-License-Identifier: Apache-2.0
"""Loading and saving models: strictly, safely, and all or nothing.

A file is read once (:mod:`~anomaly_seg_ros.checkpoints.reading`), recognised once by its metadata
or by its keys and shapes (:mod:`~anomaly_seg_ros.checkpoints.recognise`), and loaded into the one
network that it was compared with. Nothing in it is executed, and whatever is left out or filled in
is logged.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

from anomaly_seg_ros.checkpoints.metadata import METADATA_KEY, ModelMetadata
from anomaly_seg_ros.checkpoints.reading import read_checkpoint
from anomaly_seg_ros.checkpoints.recognise import recognise
from anomaly_seg_ros.checkpoints.tensor_files import check_readable, save_tensors
from anomaly_seg_ros.contract import SegmentationNetwork
from anomaly_seg_ros.errors import CheckpointError
from anomaly_seg_ros.system.resources import weights_dir

_LOG = logging.getLogger(__name__)
# Shipped weights by model name.
SHIPPED = {
    "default": "efficientvit_b0_open_set.safetensors",
    "deeplab_lite0_open_set": "deeplab_lite0_open_set.safetensors",
    "closed_set": "deeplab_lite0.safetensors",
    "erfnet_open_set": "erfnet_open_set.safetensors",
}
# Public checkpoints, which are not ours to ship, by model name.
PUBLIC = {
    "erfnet": "erfnet_cityscapes.pth",
    "efficientvit_b0": "efficientvit_b0_cityscapes.pt",
}


def resolve_model(model: str | Path) -> Path:
    """Finds the file behind a model name.

    Args:
        model: A name or a file. ``default``, ``deeplab_lite0_open_set`` (the former ``default``),
            ``closed_set`` (which that was fine-tuned from) and ``erfnet_open_set`` are shipped;
            ``erfnet`` and ``efficientvit_b0`` are public checkpoints, looked for in
            ``$ANOMALY_SEG_WEIGHTS`` and in ``../shared/weights`` beside a source checkout.

    Raises:
        CheckpointError: There is no such file, or it cannot be opened.
    """
    if str(model) in SHIPPED:
        path = weights_dir() / SHIPPED[str(model)]
    elif str(model) in PUBLIC:
        path = _public_file(str(model))
    else:
        path = Path(model).expanduser()
    try:
        check_readable(path)
    except CheckpointError as error:
        raise CheckpointError(f"model {str(model)!r}: {error}") from error
    return path


def _public_file(model: str) -> Path:
    name = PUBLIC[model]
    folders = [Path(__file__).resolve().parents[3] / "shared" / "weights"]
    if "ANOMALY_SEG_WEIGHTS" in os.environ:
        folders.insert(0, Path(os.environ["ANOMALY_SEG_WEIGHTS"]))
    found = [folder / name for folder in folders if (folder / name).is_file()]
    if not found:
        raise CheckpointError(
            f"model {model!r}: no {name} in {' or '.join(map(str, folders))}; "
            "set ANOMALY_SEG_WEIGHTS to its folder"
        )
    return found[0]


def load_model(model: str | Path) -> tuple[SegmentationNetwork, ModelMetadata]:
    """Loads a network and its metadata.

    Args:
        model: A name such as ``default``, or a file; see :func:`resolve_model`.

    Returns:
        The network in eval mode on the CPU, in float32, and its metadata.

    Raises:
        CheckpointError: The file is missing, truncated, unsafe or of an unknown layout, or its
            keys do not fit the network exactly.
    """
    path = resolve_model(model)
    found = recognise(read_checkpoint(path))
    for note in (*found.changes, *found.remarks):
        _LOG.warning("%s: %s", path, note)
    network, metadata = found.load(), found.metadata
    if network.num_classes != len(metadata.classes):
        raise CheckpointError(
            f"{path}: the network has {network.num_classes} classes, its metadata "
            f"{len(metadata.classes)}"
        )
    return network, with_output_stride(metadata, network, str(path))


def with_output_stride(
    metadata: ModelMetadata, network: SegmentationNetwork, source: str
) -> ModelMetadata:
    """Returns the metadata with the network's output stride, which it must not contradict.

    Args:
        metadata: Lacks ``output_stride`` in old files.
        network: Built from the metadata.
        source: File name for errors.

    Raises:
        CheckpointError: The metadata states another output stride.
    """
    stride = network.output_stride
    if metadata.output_stride not in (None, stride):
        raise CheckpointError(
            f"{source}: the network's output stride is {stride}, its metadata's "
            f"{metadata.output_stride}"
        )
    return replace(metadata, output_stride=stride)


def save_model(path: Path, network: SegmentationNetwork, metadata: ModelMetadata) -> None:
    """Writes weights and metadata to one file; an interrupted write leaves none behind.

    Raises:
        CheckpointError: The metadata states another output stride than the network's.
        OutputError: The folder is missing or not writable.
    """
    complete = with_output_stride(metadata, network, str(path))
    save_tensors(path, network, {METADATA_KEY: complete.to_json()})

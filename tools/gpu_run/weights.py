# SPDX-License-Identifier: Apache-2.0
"""A model file of a training that still runs, from its last checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from anomaly_seg_ros.checkpoints.fit import load_strictly
from anomaly_seg_ros.checkpoints.loading import save_model
from training.data.corpora import TrainingData
from training.engine.storage import load_checkpoint
from training.losses import build_loss
from training.networks import as_described, load_configured


def write_weights(checkpoint: Path, data: Path, path: Path) -> int:
    """Writes the averaged weights of a fine-tuning, without thresholds and statistics.

    Args:
        checkpoint: ``last.pt`` of the run folder.
        data: Data folder of the run, for a taxonomy's file.
        path: Model file.

    Returns:
        The checkpoint's step.

    Raises:
        CheckpointError: The checkpoint is damaged or that of another tool.
    """
    state = load_checkpoint(checkpoint)
    config, step = state["config"], state["step"]
    loss = build_loss(config["loss"]["name"], config["loss"]["options"])
    network, metadata = load_configured(config, loss, TrainingData(config["data"], data).taxonomy)
    # Only parameters are averaged; statistics are the live ones.
    averaged = {name: state["average"][f"module.{name}"] for name, _ in network.named_parameters()}
    load_strictly(network, {**state["model"], **averaged}, str(checkpoint))
    provenance = {"start": {"name": metadata.name, **metadata.provenance}, "step": step}
    described = replace(metadata, name=f"{metadata.name}_step_{step}", provenance=provenance)
    save_model(path, as_described(network, described), described)
    return int(step)

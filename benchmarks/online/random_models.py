"""The published networks as files with random weights: trained ones take the same time."""

from __future__ import annotations

from pathlib import Path

import torch

from anomaly_seg_ros.checkpoints.loading import save_model
from benchmarks.variants import build_variant, settle, variant_metadata

PREFIX = "random_"


def model_file(model: str, folder: Path) -> str:
    """A model's name or file as the node takes it; one called ``random_<variant>`` is made.

    Args:
        model: What the case says; a variant is a key of ``benchmarks.variants.VARIANTS``. It gets
            an outlier head and DenseHybrid's score.
        folder: Where it is written, once.
    """
    if not model.startswith(PREFIX):
        return model
    path = folder / f"{model}.safetensors"
    if not path.exists():
        torch.manual_seed(0)
        arguments = {"outlier_head": True}
        variant = model.removeprefix(PREFIX)
        network = settle(build_variant(variant, **arguments))
        arguments["num_classes"] = network.num_classes
        save_model(path, network, variant_metadata(variant, arguments, "dense_hybrid"))
    return str(path)

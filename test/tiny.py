# SPDX-License-Identifier: Apache-2.0
"""A calibrated model with random weights, small enough for tests on any machine."""

from __future__ import annotations

from pathlib import Path

import torch

from anomaly_seg_ros.calibration import RateTable, ScoreCalibration
from anomaly_seg_ros.checkpoints.loading import save_model
from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.models.registry import build_network
from anomaly_seg_ros.scores import SCORES, ClassStatistics
from anomaly_seg_ros.taxonomy import load_taxonomy

ARGUMENTS = {"num_classes": 19, "decoder_channels": 16, "skip_channels": 8}


def tiny_metadata(outlier_head: bool = False, **changes: object) -> ModelMetadata:
    """Metadata of :func:`tiny_network`, with made-up but valid constants."""
    taxonomy = load_taxonomy()
    rates = RateTable((-5.0, 0.0, 1.0, 2.0), (0.9, 0.1, 0.05, 0.01))
    fields: dict = {
        "name": "tiny",
        "architecture": "deeplab_v3plus_lite",
        "arguments": {**ARGUMENTS, "outlier_head": outlier_head},
        "classes": taxonomy.classes,
        "palette": taxonomy.palette,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "inference_size": (64, 96),
        "calibration": {
            name: ScoreCalibration(0.1 * i, 1.0 + i, rates, rates) for i, name in enumerate(SCORES)
        },
        "statistics": ClassStatistics(torch.full((19,), 0.2), torch.full((19,), 0.4)),
        "provenance": {"weights": "random"},
    }
    return ModelMetadata(**{**fields, **changes})


def tiny_network(outlier_head: bool = False, seed: int = 0) -> torch.nn.Module:
    """The default architecture, narrow, with weights from a seed."""
    torch.manual_seed(seed)
    return build_network("deeplab_v3plus_lite", {**ARGUMENTS, "outlier_head": outlier_head}).eval()


def save_tiny_model(path: Path, outlier_head: bool = False) -> Path:
    """Writes the tiny model and returns its path."""
    save_model(path, tiny_network(outlier_head), tiny_metadata(outlier_head))
    return path


def in_mode(mode: str, **options: object) -> Segmenter:
    """The tiny network with an outlier head in an inference mode."""
    metadata = tiny_metadata(outlier_head=True)
    return Segmenter(
        tiny_network(outlier_head=True), metadata, device="cpu", inference_mode=mode, **options
    )

# SPDX-License-Identifier: Apache-2.0
"""Every architecture at its real width, with weights from a seed, as a model file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_metadata

from anomaly_seg_ros.checkpoints.loading import save_model
from anomaly_seg_ros.models.registry import build_network

# By name in test output: architecture and arguments.
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "deeplab_lite": ("deeplab_v3plus_lite", {"outlier_head": True}),
    "erfnet": ("erfnet", {}),
    "default": (
        "efficientvit_seg",
        {"outlier_head": {"width": 40, "context": "lite0", "context_scale": 0.4375}},
    ),
    "wide_resnet38": ("wide_resnet38", {}),
    "wide_resnet38 of PEBAL": ("wide_resnet38", {"abstention": True}),
    "wide_resnet38 of DenseHybrid": ("wide_resnet38", {"outlier_head": True}),
    "resnet101": ("resnet101", {}),
    "resnet101 plain": ("resnet101", {"stem": "plain"}),
    "ladder_densenet121": ("ladder_densenet121", {"outlier_head": True}),
    "torchvision": ("wrapped", {"factory": "torchvision:lraspp_mobilenet_v3_large"}),
}
# Enough to pass data through; the pyramids see a few cells at stride 32.
SIZE = (64, 96)


def save_network(name: str, path: Path) -> Path:
    """Writes an uncalibrated model of 19 classes."""
    architecture, arguments = NETWORKS[name]
    if architecture == "wrapped":
        pytest.importorskip("torchvision", reason="torchvision is not installed")
    arguments = {"num_classes": 19, **arguments}
    torch.manual_seed(0)
    network = build_network(architecture, arguments)
    metadata = tiny_metadata(
        name=name,
        architecture=architecture,
        arguments=getattr(network, "arguments", arguments),
        inference_size=SIZE,
        calibration={},
        statistics=None,
    )
    save_model(path, network, metadata)
    return path

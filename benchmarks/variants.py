# SPDX-License-Identifier: Apache-2.0
"""The networks that the benchmarks go through, with random weights that keep signals in scale."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.models.registry import build_network
from anomaly_seg_ros.taxonomy import load_taxonomy

# Architecture and constructor arguments by name.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "wide_resnet38": ("wide_resnet38", {}),
    "resnet101": ("resnet101", {"stem": "deep"}),
    "resnet101_plain": ("resnet101", {"stem": "plain"}),
    "ladder_densenet121": ("ladder_densenet121", {}),
    "erfnet": ("erfnet", {}),
    "efficientvit_b0": ("efficientvit_seg", {}),
    "deeplab_v3plus_lite": ("deeplab_v3plus_lite", {}),
}
# Networks of other packages, behind the same contract.
FOREIGN_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "wrapped_lraspp": ("wrapped", {"factory": "torchvision:lraspp_mobilenet_v3_large"}),
}
_ALL = {**VARIANTS, **FOREIGN_VARIANTS}

# Of BatchNorm's outputs, in standard deviations.
_SHIFT = 1.0


def build_variant(name: str, **more: Any) -> nn.Module:
    """A network by its name above, in eval mode, with PyTorch's random weights.

    Args:
        name: Key of :data:`VARIANTS` or :data:`FOREIGN_VARIANTS`.
        more: Further constructor arguments.

    Raises:
        CheckpointError: The package of a foreign network is not installed.
    """
    architecture, arguments = _ALL[name]
    return build_network(architecture, {**arguments, **more}).eval()


@torch.no_grad()
def settle(network: nn.Module, size: tuple[int, int] = (64, 128)) -> nn.Module:
    """Gives every BatchNorm the statistics of random images, and a shift.

    Without the statistics, the signals of a deep network with random weights vanish or explode.
    Without the shift, half of all units sit at the kink of their ReLU, and a hundred such layers
    amplify float32's rounding to 1e-3 of the logits: then differences say nothing.

    Args:
        network: In eval mode; changed in place.
        size: (H, W) of the images.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
        nn.init.constant_(norm.bias, _SHIFT)
    # Images of other brightness and contrast, because whole-image pooling sees only these.
    contrast = torch.tensor([0.5, 1.0, 1.5, 2.0]).view(-1, 1, 1, 1)
    brightness = torch.tensor([0.5, -1.0, 1.0, -0.5]).view(-1, 1, 1, 1)
    network(contrast * torch.randn(4, 3, *size) + brightness)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
    return network


def variant_metadata(name: str, arguments: dict[str, Any], score: str) -> ModelMetadata:
    """Metadata of a network with random weights, for the 19 Cityscapes classes."""
    taxonomy = load_taxonomy()
    return ModelMetadata(
        name=name,
        architecture=_ALL[name][0],
        arguments={**_ALL[name][1], **arguments},
        classes=taxonomy.classes,
        palette=taxonomy.palette,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        inference_size=(1024, 2048),
        default_score=score,
        provenance={"weights": "random"},
    )

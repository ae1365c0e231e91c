# SPDX-License-Identifier: Apache-2.0
"""Networks by the name that stands in a model's metadata."""

from __future__ import annotations

import importlib
from typing import Any

from anomaly_seg_ros.contract import SegmentationNetwork, check_contract
from anomaly_seg_ros.errors import CheckpointError, ParameterError, first_line
from anomaly_seg_ros.io.safe_yaml_json import short_repr

_MODELS = "anomaly_seg_ros.models"
# Module and class by architecture; a module is imported when its network is built.
ARCHITECTURES: dict[str, tuple[str, str]] = {
    "deeplab_v3plus_lite": (f"{_MODELS}.deeplab_lite", "DeepLabV3PlusLite"),
    "erfnet": (f"{_MODELS}.erfnet", "ERFNet"),
    "efficientvit_seg": (f"{_MODELS}.efficientvit_seg", "EfficientViTSeg"),
    "wide_resnet38": (f"{_MODELS}.wide_resnet38", "DeepLabV3PlusWideResNet38"),
    "resnet101": (f"{_MODELS}.resnet101", "DeepLabV3PlusResNet101"),
    "ladder_densenet121": (f"{_MODELS}.ladder_densenet", "LadderDenseNet121"),
    "wrapped": (f"{_MODELS}.wrapped", "WrappedNetwork"),
}

# What networks and torch raise for arguments that make no network; found by fuzzing.
_UNBUILDABLE = (
    *(ParameterError, ArithmeticError, AssertionError, AttributeError, LookupError),
    *(MemoryError, RuntimeError, TypeError, ValueError),
)


def network_class(architecture: str) -> type[SegmentationNetwork]:
    """The class behind an architecture's name.

    Raises:
        CheckpointError: Unknown architecture.
    """
    if architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"unknown architecture {architecture!r}, known: {', '.join(sorted(ARCHITECTURES))}"
        )
    module, name = ARCHITECTURES[architecture]
    return getattr(importlib.import_module(module), name)


def build_network(architecture: str, arguments: dict[str, Any]) -> SegmentationNetwork:
    """Constructs a network with random weights and holds it to the contract.

    Raises:
        CheckpointError: Unknown architecture or arguments that it does not take.
    """
    constructor = network_class(architecture)
    try:
        network = constructor(**arguments)
    except CheckpointError:
        raise
    except _UNBUILDABLE as error:
        given = ", ".join(f"{key}={short_repr(value)}" for key, value in arguments.items())
        raise CheckpointError(
            f"{architecture} cannot be built from {given}: {first_line(error)}"
        ) from error
    return check_contract(network)

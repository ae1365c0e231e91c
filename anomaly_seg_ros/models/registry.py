"""Networks by the name that stands in a model's metadata."""

from __future__ import annotations

from typing import Any

from torch import nn

from anomaly_seg_ros.errors import CheckpointError
from anomaly_seg_ros.models.deeplab_lite import DeepLabV3PlusLite
from anomaly_seg_ros.models.erfnet import ERFNet

ARCHITECTURES: dict[str, type[nn.Module]] = {
    "deeplab_v3plus_lite": DeepLabV3PlusLite,
    "erfnet": ERFNet,
}


def build_network(architecture: str, arguments: dict[str, Any]) -> nn.Module:
    """Constructs a network with random weights.

    Raises:
        CheckpointError: Unknown architecture or arguments that it does not take.
    """
    if architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"unknown architecture {architecture!r}, known: {', '.join(sorted(ARCHITECTURES))}"
        )
    try:
        return ARCHITECTURES[architecture](**arguments)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{architecture} cannot be built from {arguments}: {error}"
        ) from error

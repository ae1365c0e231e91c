# SPDX-License-Identifier: Apache-2.0
"""State dicts in the shape of public releases, without their weight."""

from __future__ import annotations

import torch
from torch import Tensor

from anomaly_seg_ros.models.registry import build_network

Tensors = dict[str, Tensor]


def hollow(architecture: str, **arguments: object) -> Tensors:
    """A network's state dict with full shapes but one stored number for each tensor."""
    with torch.device("meta"):
        shapes = build_network(architecture, arguments).state_dict()
    return {
        key: torch.full((), index % 7, dtype=tensor.dtype).expand(tensor.shape)
        for index, (key, tensor) in enumerate(shapes.items())
    }


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + key: value for key, value in tensors.items()}

# SPDX-License-Identifier: Apache-2.0
"""Networks whose outputs differ from pixel to pixel."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_network
from torch import nn

from anomaly_seg_ros.models.erfnet import ERFNet


@pytest.fixture(scope="session")
def deeplab() -> nn.Module:
    """The tiny default network. With BatchNorm as initialised its activations fade to nothing, so
    the statistics are those of a batch.
    """
    network = tiny_network()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    network.train()
    with torch.no_grad():
        network(torch.rand(4, 3, 64, 96, generator=torch.Generator().manual_seed(9)))
    return network.eval()


@pytest.fixture(scope="session")
def erfnet() -> ERFNet:
    torch.manual_seed(0)
    return ERFNet().eval()


@pytest.fixture(params=["deeplab", "erfnet"])
def network(request: pytest.FixtureRequest) -> nn.Module:
    """Each of the two in turn."""
    return request.getfixturevalue(request.param)

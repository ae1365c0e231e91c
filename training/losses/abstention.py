# SPDX-License-Identifier: Apache-2.0
"""PEBAL's abstention class: an additional output of the last layer.

Models for the node have K classes, so :func:`training.networks.as_described` removes the channel
after training. The scores only use the K class logits in any case.
"""

from __future__ import annotations

import torch
from torch import nn

from anomaly_seg_ros.errors import ParameterError


def add_abstention(network: nn.Module) -> nn.Module:
    """Gives a network K + 1 logits, the last of which is the abstention class.

    Its initial weights are the mean over the classes, so that abstaining is as likely as an
    average class. Other outputs of the last layer beyond the K classes are dropped, but a network
    that was trained with an abstention class (``network.abstention``) keeps it.

    Args:
        network: Network that declares one convolution as ``last_layer`` in ``trainable_parts``;
            changed in place. Build the optimizer afterwards.

    Returns:
        The same network.
    """
    classes = network.num_classes
    network.num_classes = classes + 1
    if network.abstention:
        return network
    layer, dim = _last_layer(network)
    weight = layer.weight.detach().narrow(dim, 0, classes)
    layer.weight = nn.Parameter(torch.cat([weight, weight.mean(dim, keepdim=True)], dim))
    if layer.bias is not None:
        bias = layer.bias.detach()[:classes]
        layer.bias = nn.Parameter(torch.cat([bias, bias.mean(0, keepdim=True)]))
    layer.out_channels = classes + 1
    return network


def _last_layer(network: nn.Module) -> tuple[nn.Conv2d | nn.ConvTranspose2d, int]:
    """Returns the last layer and the output dimension of its weight."""
    paths = network.trainable_parts["last_layer"]
    if len(paths) != 1:
        raise ParameterError(
            f"{type(network).__name__} has {len(paths)} last layers ({', '.join(paths)}): no "
            "abstention class can be added to it"
        )
    (path,) = paths
    layer = network.get_submodule(path)
    if isinstance(layer, nn.Conv2d):
        return layer, 0
    if isinstance(layer, nn.ConvTranspose2d):
        return layer, 1
    raise ParameterError(
        f"the last layer of {type(network).__name__} is a {type(layer).__name__}: no abstention "
        "class can be added to it"
    )

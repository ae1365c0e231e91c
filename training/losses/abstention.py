"""PEBAL's abstention class: one more output of the last layer.

A model for the node has K classes, so :func:`training.networks.as_described` drops the channel
after training; the scores are functions of the K class logits either way.
"""

from __future__ import annotations

import torch
from torch import nn

from anomaly_seg_ros.errors import ParameterError


def add_abstention(network: nn.Module) -> nn.Module:
    """Gives the network K + 1 logits, of which the last is the abstention class.

    Its weights are those of the mean class, so that abstaining begins no more and no less likely
    than the average class. Whatever the last layer computed beyond its K classes is dropped; but a
    network that was trained with an abstention class (``network.abstention``) goes on with it.

    Args:
        network: Declares ``trainable_parts`` with one convolution as ``last_layer``; changed in
            place. The optimizer must be built afterwards.

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
    """The last layer and the dimension of its weight that counts outputs."""
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

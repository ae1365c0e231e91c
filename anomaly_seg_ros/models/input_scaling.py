# SPDX-License-Identifier: Apache-2.0
"""From pixels to what a network was trained on: one definition for training and serving."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class InputScaling:
    """``(x / 255 - mean) / std`` for RGB images x of 0 to 255.

    Attributes:
        mean, std: One number a channel, on [0, 1]; ``std`` is positive.
    """

    mean: Triple
    std: Triple

    def constants(self, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """Offset and divisor on the scale of the pixels, (1, 3, 1, 1) float32 each."""
        offset, divisor = (
            255 * torch.tensor(values, device=device).view(1, 3, 1, 1)
            for values in (self.mean, self.std)
        )
        return offset, divisor

    def __call__(self, images: Tensor) -> Tensor:
        """Scales images.

        Args:
            images: (N, 3, H, W) uint8 or float RGB; a gradient passes through.

        Returns:
            (N, 3, H, W) float32, channels last in memory.
        """
        offset, divisor = self.constants(images.device)
        scaled = (images.float() - offset) / divisor
        return scaled.contiguous(memory_format=torch.channels_last)


# What the pre-trained trunks of torchvision and segmentation_models_pytorch expect.
IMAGENET = InputScaling((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
UNSCALED = InputScaling((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
# (x - 127) / 128: the EfficientNet-Lite trunk's own, and so that of training.closed_set.
EFFICIENTNET_LITE = InputScaling((127 / 255,) * 3, (128 / 255,) * 3)
# By the name that a training's configuration gives them.
SCALINGS = {"imagenet": IMAGENET, "unscaled": UNSCALED, "efficientnet_lite": EFFICIENTNET_LITE}

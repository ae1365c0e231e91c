"""Input constants that several releases share."""

from __future__ import annotations

from typing import NamedTuple


class Scaling(NamedTuple):
    """What is taken off each RGB channel, on [0, 1], and what it is divided by."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


# What the pre-trained trunks of torchvision and segmentation_models_pytorch expect.
IMAGENET = Scaling((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
UNSCALED = Scaling((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
# (height, width): full size, as the releases were evaluated.
CITYSCAPES_SIZE = (1024, 2048)
# 720 x 1280, rounded up to the multiple of 32 that the network asks for.
STREET_HAZARDS_SIZE = (736, 1280)

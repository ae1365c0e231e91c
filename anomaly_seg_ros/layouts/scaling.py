"""Input constants that several releases share."""

from __future__ import annotations

# Per RGB channel, on [0, 1]; torchvision's ImageNet weights.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# (height, width): full size, as the releases were evaluated.
CITYSCAPES_SIZE = (1024, 2048)
# 720 x 1280, rounded up to the multiple of 32 that the network asks for.
STREET_HAZARDS_SIZE = (736, 1280)

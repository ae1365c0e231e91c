# SPDX-License-Identifier: Apache-2.0
"""Small networks as users bring them, to be wrapped."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_seg_ros.models.wrapped import WrappedNetwork

CLASSES = 5


class Foreign(nn.Module):
    """A small network as users write them: stages, a head with dropout, an auxiliary head.

    Args:
        num_classes: Outputs of the last layer.
        width: Channels of the backbone.
        corners: ``align_corners`` of its upsampling; None for the nearest pixel.
        mode: Of its upsampling.
    """

    def __init__(
        self,
        num_classes: int = CLASSES,
        width: int = 8,
        corners: bool | None = False,
        mode: str = "bilinear",
    ) -> None:
        super().__init__()
        self.interpolation = {"mode": mode, "align_corners": corners}
        self.backbone = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(True)),
            nn.Sequential(nn.Conv2d(width, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(True)),
        )
        self.head = nn.Sequential(
            nn.Conv2d(width, 12, 3, 1, 1),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Conv2d(12, num_classes, 1),
        )
        self.auxiliary = nn.Conv2d(width, num_classes, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.backbone(images)
        auxiliary = self.auxiliary(features)
        return {"out": self._upsample(self.head(features), images), "aux": auxiliary}

    def _upsample(self, logits: Tensor, images: Tensor) -> Tensor:
        return F.interpolate(logits, size=images.shape[-2:], **self.interpolation)


class LateAuxiliary(Foreign):
    """Runs its auxiliary head last, as torchvision's networks do."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.backbone(images)
        out = self._upsample(self.head(features), images)
        return {"out": out, "aux": self.auxiliary(features)}


class TwoClassifiers(Foreign):
    """Adds the logits of two layers."""

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone(images)
        return self._upsample(self.head(features) + self.auxiliary(features), images)


class Coarse(Foreign):
    """Returns its logits as they are."""

    def _upsample(self, logits: Tensor, images: Tensor) -> Tensor:
        return logits


class Calibrated(Foreign):
    """Changes its logits behind the classifier."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)["out"].softmax(1)


def around(network: nn.Module, **arguments: Any) -> WrappedNetwork:
    """A network under the contract; says of it what ``arguments`` do not."""
    torch.manual_seed(0)
    return WrappedNetwork.around(
        network, **{"num_classes": CLASSES, "size_multiple": 4, **arguments}
    ).eval()


def own_output(wrapped: WrappedNetwork, images: Tensor) -> Tensor:
    """What the wrapped network returns when it is called itself, to its end."""
    returned = wrapped.network(images)
    return returned["out"] if isinstance(returned, dict) else returned

# SPDX-License-Identifier: Apache-2.0
"""Networks that compile in a moment and whose outputs follow the image closely."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tiny import tiny_metadata
from torch import Tensor, nn

from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.contract import NetworkOutput, SegmentationNetwork
from anomaly_seg_ros.inference.backends.contract import Backend
from anomaly_seg_ros.inference.backends.selection import Selection, select_backend
from anomaly_seg_ros.inference.options import SegmenterOptions

CPU = torch.device("cpu")
# What other backends and precisions are compared with.
EXACT = SegmenterOptions(device="cpu", precision="fp32")
METADATA = tiny_metadata(outlier_head=True, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


class Strided(SegmentationNetwork):
    """Logits at a quarter of the size; strided, grouped and resampling layers.

    Args:
        outlier_head: Whether there is one.
    """

    num_classes = 19
    output_stride = 4
    size_multiple = 8
    pre_logits_channels = 8

    def __init__(self, outlier_head: bool = True) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU6()
        )
        self.down = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.deep = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.classifier = nn.Conv2d(8, 19, 1)
        self.outlier_head = nn.Conv2d(8, 2, 1) if outlier_head else None
        with torch.no_grad():
            self.stem[1].running_mean.normal_(0, 0.1)
            self.stem[1].running_var.uniform_(0.1, 0.3)
            self.classifier.weight.mul_(8)  # logits that differ between pixels, as trained ones
        self.eval()

    def forward(self, images: Tensor) -> NetworkOutput:
        skip = self.down(self.stem(images)).relu()
        deep = F.interpolate(self.deep(skip), skip.shape[-2:], mode="bilinear")
        pre_logits = skip + deep
        ood_logits = None if self.outlier_head is None else self.outlier_head(pre_logits)
        return NetworkOutput(pre_logits, self.classifier(pre_logits), ood_logits)


class AnySize(SegmentationNetwork):
    """Takes frames of every size, and answers at that size."""

    num_classes = 19
    output_stride = size_multiple = 1
    pre_logits_channels = 4
    outlier_head = None

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.classifier = nn.Conv2d(4, 19, 1)
        self.eval()

    def forward(self, images: Tensor) -> NetworkOutput:
        pre_logits = self.stem(images).relu()
        return NetworkOutput(pre_logits, self.classifier(pre_logits))


def select(
    name: str,
    precision: str = "auto",
    network: nn.Module | None = None,
    device: torch.device = CPU,
    size: tuple[int, int] = (64, 96),
    **changes: Any,
) -> Selection:
    """The backend for a network, :class:`Strided` where none is given."""
    network = Strided() if network is None else network
    options = SegmenterOptions(backend=name, precision=precision, **changes)
    return select_backend(network, METADATA, options, device, size)


@functools.cache
def build(name: str, precision: str = "fp32", outlier_head: bool = True) -> Backend:
    """A backend around :class:`Strided`, made once: compiling takes a second a size."""
    network = Strided(outlier_head)
    return select(name, precision, network=network, num_threads=1).backend


def frames(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise with blobs, so that neighbouring pixels often have one class."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, height // 8 + 1, width // 8 + 1, 3))
    blobs = coarse.repeat(8, 1).repeat(8, 2)[:, :height, :width]
    return np.clip(blobs + rng.integers(-20, 21, blobs.shape), 0, 255).astype(np.uint8)


@torch.no_grad()
def plain(network: nn.Module, metadata: ModelMetadata, batch: np.ndarray) -> NetworkOutput:
    """The network as it was trained: no folding, no rounding, contiguous float images."""
    images = torch.from_numpy(batch).permute(0, 3, 1, 2).float().contiguous() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (metadata.mean, metadata.std))
    return network((images - mean) / std)

"""What the training stream hands to the losses."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class MixedBatch(NamedTuple):
    """Road scenes with pasted outliers.

    Attributes:
        images: (N, 3, H, W) uint8 RGB.
        labels: (N, H, W) int64 trainIds, 255 = ignore: void and every outlier pixel.
        ood_mask: (N, H, W) uint8: 0 inlier, 1 outlier, 255 ignore (the blended rim of an object).
    """

    images: Tensor
    labels: Tensor
    ood_mask: Tensor

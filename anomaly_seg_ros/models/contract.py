"""What every network of this package promises: image in, pre-logits and logits out."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class NetworkOutput(NamedTuple):
    """Dense outputs before the last (parameter-free) upsampling.

    Attributes:
        pre_logits: (N, C, h', w'), the features that the classifier reads; (h', w') = (h, w)
            unless the classifier itself upsamples.
        logits: (N, K, h, w), one channel a class; a softmax over K gives class probabilities.
        ood_logits: (N, 2, h, w) of the outlier head (channel 1 = outlier), or None without one.
    """

    pre_logits: Tensor
    logits: Tensor
    ood_logits: Tensor | None = None


class SegmentationNetwork(Protocol):
    """An ``nn.Module`` that maps normalised images (N, 3, H, W) to a :class:`NetworkOutput`."""

    num_classes: int
    output_stride: int
    size_multiple: int

    def __call__(self, images: Tensor) -> NetworkOutput:
        """Runs the network; H and W must be multiples of ``size_multiple``."""
        ...

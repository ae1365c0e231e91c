"""What every network of this package promises: image in, pre-logits and logits out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from torch import Tensor, nn


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
    """An ``nn.Module`` that maps normalised images (N, 3, H, W) to a :class:`NetworkOutput`.

    Attributes:
        num_classes: K.
        output_stride: Rows of the image for each row of the logits.
        size_multiple: Of which H and W must be multiples: a multiple of every stride inside.
        align_corners: Whether the logits' corners lie on the image's corner pixels (what the
            network was trained with), rather than on a grid of ``output_stride``.
        pre_logits_channels: C of the pre-logits.
        outlier_head: Maps pre-logits to (N, 2, h', w') outlier logits; None without one.
        trainable_parts: Paths of submodules by part, for fine-tuning: ``last_layer`` (one
            convolution), ``classification_head``, ``decoder``, ``upper``, and ``all`` where the
            network has parameters that the forward pass does not use.
        trunk: Paths of the submodules that come pre-trained on images.
    """

    num_classes: int
    output_stride: int
    size_multiple: int
    align_corners: bool
    pre_logits_channels: int
    outlier_head: nn.Module | None
    trainable_parts: Mapping[str, tuple[str, ...]]
    trunk: tuple[str, ...]

    def __call__(self, images: Tensor) -> NetworkOutput:
        """Runs the network."""
        ...

    def classify(self, pre_logits: Tensor) -> Tensor:
        """Maps pre-logits (N, C, h', w') to logits (N, K, h, w): the classifier alone."""
        ...

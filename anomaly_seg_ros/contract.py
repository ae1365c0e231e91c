# SPDX-License-Identifier: Apache-2.0
"""What every network of this package promises: image in, pre-logits and logits out."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


class NetworkOutput(NamedTuple):
    """Dense outputs before the last (parameter-free) upsampling.

    Attributes:
        pre_logits: (N, C, h', w'), the features that the classifier reads; (h', w') = (h, w)
            unless the classifier itself upsamples.
        logits: (N, K, h, w), one channel per class; a softmax over K gives class probabilities.
        ood_logits: (N, 2, h, w), outputs of the outlier head (channel 1 = outlier); None without
            a head.
    """

    pre_logits: Tensor
    logits: Tensor
    ood_logits: Tensor | None = None


class SegmentationNetwork(nn.Module):
    """Base of all networks: maps normalised images (N, 3, H, W) to a :class:`NetworkOutput`.

    :func:`check_contract` checks a network once, when it is built, so that no other code needs to
    ask whether an attribute is there.

    Attributes:
        num_classes: K, the number of known classes.
        output_stride: Rows of the image for each row of the logits.
        size_multiple: H and W must be multiples of it; itself a multiple of every stride inside.
        pre_logits_channels: C, the channels of the pre-logits.
        outlier_head: Maps pre-logits and logits to (N, 2, h', w') outlier logits; None without
            one.
        align_corners: Whether the logits' corners lie on the image's corner pixels (what the
            network was trained with), rather than on a grid of ``output_stride``.
        bf16: Whether bfloat16 is accurate enough for it; if not, ``precision: auto`` is float32 on
            every CPU.
        abstention: Whether the last layer has one more output, PEBAL's abstention class, which is
            left out of the logits.
        trainable_parts: Paths of submodules by part, for fine-tuning: ``last_layer`` (one
            convolution), ``classification_head``, ``decoder``, ``upper``, and ``all`` where the
            network has parameters that the forward pass does not use.
        trunk: Paths of the submodules that start from pre-trained weights.
        feature_layers: Channels by path of submodules whose outputs are the trunk's features, from
            the finest on: what an outlier branch reads.
    """

    num_classes: int
    output_stride: int
    size_multiple: int
    pre_logits_channels: int
    # No default: a class attribute would hide the submodule of this name.
    outlier_head: nn.Module | None
    align_corners: bool = False
    bf16: bool = True
    abstention: bool = False
    trainable_parts: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    trunk: tuple[str, ...] = ()
    feature_layers: Mapping[str, int] = MappingProxyType({})

    if TYPE_CHECKING:

        def __call__(self, images: Tensor) -> NetworkOutput:
            """Runs the network."""
            ...

    def classify(self, pre_logits: Tensor) -> Tensor:
        """Maps pre-logits (N, C, h', w') to logits (N, K, h, w): the classifier alone."""
        raise NotImplementedError

    def outputs(self, pre_logits: Tensor) -> NetworkOutput:
        """Ends a forward pass: logits, and outlier logits on their grid, for pre-logits."""
        logits = self.classify(pre_logits)
        if self.outlier_head is None:
            return NetworkOutput(pre_logits, logits)
        ood_logits = self.outlier_head(pre_logits, logits)
        grid = logits.shape[-2:]
        if ood_logits.shape[-2:] != grid:
            # Not the network's align_corners, which is that of its upsampling behind the
            # classifier: strided and transposed convolutions keep half-pixel centres.
            ood_logits = F.interpolate(ood_logits, size=grid, mode="bilinear", align_corners=False)
        return NetworkOutput(pre_logits, logits, ood_logits)


def check_contract(network: Any) -> SegmentationNetwork:
    """Returns the network if it keeps the contract.

    Raises:
        TypeError: It is not a :class:`SegmentationNetwork`, or an attribute is missing or wrong;
            the message names it.
    """
    name = type(network).__name__
    if not isinstance(network, SegmentationNetwork):
        raise TypeError(f"{name} is no SegmentationNetwork")
    for attribute in ("num_classes", "output_stride", "size_multiple", "pre_logits_channels"):
        value = getattr(network, attribute, None)
        if not isinstance(value, int) or value < 1:
            raise TypeError(f"{name}.{attribute} is {value!r}, expected a positive whole number")
    if not hasattr(network, "outlier_head"):
        raise TypeError(f"{name}.outlier_head is missing, expected a module or None")
    paths = {path for path, _ in network.named_modules()}
    for part, named in {
        **network.trainable_parts,
        "trunk": network.trunk,
        "feature_layers": network.feature_layers,
    }.items():
        if unknown := set(named) - paths:
            raise TypeError(f"{name}: no submodule {min(unknown)!r}, named in {part!r}")
    return network

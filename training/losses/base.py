# SPDX-License-Identifier: Apache-2.0
"""Base of the losses: network output and ground truth in, total and terms out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.models.input_scaling import InputScaling
from training.losses.checks import choice, number
from training.losses.grids import GRIDS, MASK_MODES, Pixels, on_grid

WeightedTerms = dict[str, tuple[float | Tensor, Tensor]]


class LossTerms(NamedTuple):
    """A loss and its terms.

    Attributes:
        total: Scalar to differentiate.
        terms: Detached, unweighted scalars by name, for the log. With several processes, their
            mean over the ranks is the value for the whole batch.
    """

    total: Tensor
    terms: dict[str, Tensor]


class OpenSetLoss(nn.Module):
    """Base of the losses: evaluated in float32, outside of autocast, on a common grid.

    Args:
        grid: Grid of the evaluation: ``label`` upsamples the logits to the labels and the outlier
            mask; ``logits`` downsamples these to the logits.
        align_corners: How to upsample; None uses the network's own setting (see :meth:`follow`),
            or False if no network is followed.
        class_weights: K weights of the cross-entropy; None = all 1.
        mask_to_grid: How to downsample the outlier mask, ``nearest`` or ``area``; see
            :func:`~training.losses.grids.reduce_mask`.
        min_coverage: For ``area``, the share from which on a cell counts as outlier.

    Raises:
        ParameterError: An option is out of range.
    """

    # Whether the loss uses output.ood_logits; otherwise the head's parameters get no gradient.
    needs_outlier_head = False
    # Logits beyond the K classes that the network must have (PEBAL's abstention).
    extra_logits = 0

    def __init__(
        self,
        grid: str = "label",
        align_corners: bool | None = None,
        class_weights: Sequence[float] | None = None,
        mask_to_grid: str = "nearest",
        min_coverage: float = 0.5,
    ) -> None:
        super().__init__()
        self.grid = choice("grid", grid, GRIDS)
        self.align_corners = align_corners
        self.mask_to_grid = choice("mask_to_grid", mask_to_grid, MASK_MODES)
        self.min_coverage = number("min_coverage", min_coverage, 0, 1, open_low=True)
        if class_weights is not None:
            class_weights = torch.tensor(
                [number("class_weights", w, 0, open_low=True) for w in class_weights],
                dtype=torch.float32,
            )
        self.register_buffer("class_weights", class_weights, persistent=False)

    def follow(self, network: nn.Module) -> OpenSetLoss:
        """Adopts the network's ``align_corners`` if it was not given; returns the loss itself.

        If training and inference upsampled differently, the model would be trained for maps that
        are shifted by up to half a cell at the borders.

        Args:
            network: The network, see :class:`~anomaly_seg_ros.contract.SegmentationNetwork`.
        """
        if self.align_corners is None:
            self.align_corners = network.align_corners
        return self

    def forward(self, output: NetworkOutput, labels: Tensor, ood_mask: Tensor) -> LossTerms:
        """Evaluates the loss.

        Args:
            output: Network output, of any float dtype.
            labels: (N, H, W) int64 trainIds, 255 = ignore.
            ood_mask: (N, H, W) uint8: 0 inlier, 1 outlier, 255 ignore.

        Raises:
            ParameterError: The network lacks an output that the loss needs, or shapes do not fit.
        """
        self._check(output, labels, ood_mask)
        # Half precision would lose small terms, so autocast has to be off too.
        with torch.autocast(output.logits.device.type, enabled=False):
            output = NetworkOutput(
                output.pre_logits,
                _at_least_float32(output.logits),
                None if output.ood_logits is None else _at_least_float32(output.ood_logits),
            )
            weighted = self.weighted_terms(output, labels, ood_mask)
            total = torch.stack([weight * term for weight, term in weighted.values()]).sum()
        return LossTerms(total, {name: term.detach() for name, (_, term) in weighted.items()})

    def weighted_terms(
        self, output: NetworkOutput, labels: Tensor, ood_mask: Tensor
    ) -> WeightedTerms:
        """Returns (weight, scalar) pairs by name; the total is the sum of their products."""
        raise NotImplementedError

    def pixels(
        self, output: NetworkOutput, labels: Tensor, ood_mask: Tensor, grid: str | None = None
    ) -> Pixels:
        """Brings output and ground truth to ``grid``, by default the loss's own."""
        if not self.needs_outlier_head:
            output = output._replace(ood_logits=None)
        return on_grid(
            output,
            labels,
            ood_mask,
            grid or self.grid,
            bool(self.align_corners),
            self.mask_to_grid,
            self.min_coverage,
        )

    def _check(self, output: NetworkOutput, labels: Tensor, ood_mask: Tensor) -> None:
        name = type(self).__name__
        if self.needs_outlier_head and output.ood_logits is None:
            raise ParameterError(
                f"{name} needs an outlier head; build the network with outlier_head=True"
            )
        if labels.shape != ood_mask.shape or labels.shape[:1] != output.logits.shape[:1]:
            raise ParameterError(
                f"{name}: logits {tuple(output.logits.shape)}, labels {tuple(labels.shape)} and "
                f"outlier mask {tuple(ood_mask.shape)} do not belong together"
            )
        classes = output.logits.shape[1] - self.extra_logits
        if self.class_weights is not None and len(self.class_weights) != classes:
            raise ParameterError(
                f"{name}: {len(self.class_weights)} class_weights for {classes} classes"
            )


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


class Objective:
    """Joins a loss to a network, for the training loop: scale, run the network, evaluate.

    Args:
        loss: Maps (output, labels, outlier mask) to a loss with terms.
        scaling: Input scaling of the network.
    """

    def __init__(
        self, loss: Callable[[NetworkOutput, Tensor, Tensor], LossTerms], scaling: InputScaling
    ) -> None:
        self.loss = loss
        self.scaling = scaling

    def __call__(self, network: nn.Module, batch: tuple[Tensor, ...]) -> LossTerms:
        """Evaluates a batch.

        Args:
            network: The network, see :class:`~anomaly_seg_ros.contract.SegmentationNetwork`.
            batch: (N, 3, H, W) uint8 images, (N, H, W) int64 trainIds (255 = ignore), and, if
                outliers are mixed in, their (N, H, W) uint8 mask; see
                :class:`~training.data.mixing.mixed_views.MixedBatch`.
        """
        images, labels, *rest = batch
        ood_mask = rest[0] if rest else torch.zeros_like(labels, dtype=torch.uint8)
        return self.loss(network(self.scaling(images)), labels, ood_mask)

"""What every loss promises: outputs and ground truth in, a total and its terms out."""

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
    """A loss and what it is made of.

    Attributes:
        total: Scalar with a graph.
        terms: Unweighted scalars without a graph, by name, for the log. Under several processes
            their mean over the ranks is the figure of the whole batch.
    """

    total: Tensor
    terms: dict[str, Tensor]


class OpenSetLoss(nn.Module):
    """Base of the losses: float32, outside of autocast, on a common grid.

    Args:
        grid: Where the loss is evaluated: ``label`` upsamples the logits to the labels (and the
            outlier mask), ``logits`` brings those down to the logits.
        align_corners: Of the upsampling; None takes the network's own (see :meth:`follow`), and
            False where no network is followed.
        class_weights: K weights of the cross-entropy, None = all 1.
        mask_to_grid: How the outlier mask comes to a coarser grid, ``nearest`` or ``area``; see
            :func:`~training.losses.grids.reduce_mask`.
        min_coverage: For ``area``: the share from which on a cell counts as outlier.

    Raises:
        ParameterError: An option out of range.
    """

    # Whether the loss reads output.ood_logits; without it the head's parameters get no gradient.
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
        """Takes from a network what was left to it, and returns itself.

        With another upsampling than where the model is used, it would be trained for maps that
        are shifted by up to half a cell at the borders.

        Args:
            network: See :class:`~anomaly_seg_ros.contract.SegmentationNetwork`.
        """
        if self.align_corners is None:
            self.align_corners = network.align_corners
        return self

    def forward(self, output: NetworkOutput, labels: Tensor, ood_mask: Tensor) -> LossTerms:
        """Evaluates the loss.

        Args:
            output: Of a network, any float dtype.
            labels: (N, H, W) int64 trainIds, 255 = ignore.
            ood_mask: (N, H, W) uint8: 0 inlier, 1 outlier, 255 ignore.

        Raises:
            ParameterError: The network lacks what the loss needs, or shapes do not fit.
        """
        self._check(output, labels, ood_mask)
        # Half precision would lose the small terms, and autocast would bring it back.
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
        """The (weight, scalar) pairs whose products add up to the total, by name."""
        raise NotImplementedError

    def pixels(
        self, output: NetworkOutput, labels: Tensor, ood_mask: Tensor, grid: str | None = None
    ) -> Pixels:
        """Everything that the loss needs on ``grid``, by default the loss's own."""
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
    """What the loop calls.

    Args:
        loss: Maps (output, labels, outlier mask) to a loss with terms.
        scaling: Of the images.
    """

    def __init__(
        self, loss: Callable[[NetworkOutput, Tensor, Tensor], LossTerms], scaling: InputScaling
    ) -> None:
        self.loss = loss
        self.scaling = scaling

    def __call__(self, network: nn.Module, batch: tuple[Tensor, ...]) -> LossTerms:
        """Evaluates a batch.

        Args:
            network: See :class:`~anomaly_seg_ros.contract.SegmentationNetwork`.
            batch: (N, 3, H, W) uint8 images, (N, H, W) int64 trainIds (255 = ignore), and, where
                outliers are mixed in, their (N, H, W) uint8 mask; see
                :class:`~training.data.mixing.mixed_views.MixedBatch`.
        """
        images, labels, *rest = batch
        ood_mask = rest[0] if rest else torch.zeros_like(labels, dtype=torch.uint8)
        return self.loss(network(self.scaling(images)), labels, ood_mask)

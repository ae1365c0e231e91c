"""Joins a loss to a network: scales the batch, runs the network, evaluates the loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.models.input_scaling import InputScaling
from training.losses.base import LossTerms


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
                :class:`~training.data.batches.MixedBatch`.
        """
        images, labels, *rest = batch
        ood_mask = rest[0] if rest else torch.zeros_like(labels, dtype=torch.uint8)
        return self.loss(network(self.scaling(images)), labels, ood_mask)

# SPDX-License-Identifier: Apache-2.0
"""Cross-entropy: the closed-set term of most losses, and the loss with no other term."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_seg_ros.contract import NetworkOutput
from training.losses.base import OpenSetLoss, WeightedTerms
from training.losses.grids import Pixels
from training.losses.reduction import global_mean


def segmentation_term(pixels: Pixels, class_weights: Tensor | None) -> Tensor:
    r"""Mean cross-entropy of labelled pixels, :math:`-\ln P(y | x)`.

    Args:
        pixels: Output and ground truth on one grid.
        class_weights: (K,) weights of the mean, or None.

    Returns:
        A scalar; 0 if no pixel is labelled.
    """
    labelled = pixels.labelled
    labels = torch.where(labelled, pixels.labels, 0)
    values = F.cross_entropy(pixels.logits, labels, reduction="none")
    if class_weights is None:
        return global_mean(values, labelled)
    return global_mean(values, class_weights[labels] * labelled)


class ClosedSetCrossEntropy(OpenSetLoss):
    """Cross-entropy only, for closed-set training and as the baseline without negatives."""

    def weighted_terms(
        self, output: NetworkOutput, labels: Tensor, ood_mask: Tensor
    ) -> WeightedTerms:
        """``L = L_id``."""
        pixels = self.pixels(output, labels, ood_mask)
        return {"segmentation": (1.0, segmentation_term(pixels, self.class_weights))}

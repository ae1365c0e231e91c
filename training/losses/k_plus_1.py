# SPDX-License-Identifier: Apache-2.0
"""Cross-entropy over the K classes and one more for outliers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_seg_ros.contract import NetworkOutput
from training.losses.base import OpenSetLoss, WeightedTerms
from training.losses.checks import number
from training.losses.reduction import global_mean


class KPlusOne(OpenSetLoss):
    r"""Cross-entropy of a (K + 1)-way classifier, in which outliers are the last class.

    One softmax joins the K logits and :math:`o_1 - o_0`, the log-odds of the outlier head. So the
    network stays as it is, and the score ``k_plus_1`` runs in the node.

    Source: the baseline "K+1 classifier" of Kong & Ramanan, "OpenGAN: Open-Set Recognition via
    Open Data Generation" (ICCV 2021), and of Table 3 of the synthetic-negatives paper.

    Args:
        outlier_weight: Weight of the outliers in the mean over all pixels, as ``class_weights``
            are the weights of the others.
        **options: See :class:`~training.losses.base.OpenSetLoss`.
    """

    needs_outlier_head = True

    def __init__(self, outlier_weight: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.outlier_weight = number("outlier_weight", outlier_weight, 0)

    def weighted_terms(
        self, output: NetworkOutput, labels: Tensor, ood_mask: Tensor
    ) -> WeightedTerms:
        """One term, the mean over labelled pixels and outliers."""
        pixels = self.pixels(output, labels, ood_mask)
        outlier_logit = pixels.ood_logits.diff(dim=1)
        logits = torch.cat([pixels.logits, outlier_logit], 1)
        classes = pixels.logits.shape[1]
        target = torch.where(pixels.labelled, pixels.labels, classes)
        weights = self.class_weights
        if weights is None:
            weights = logits.new_ones(classes)
        weights = F.pad(weights, (0, 1), value=self.outlier_weight)[target]
        values = F.cross_entropy(logits, target, reduction="none")
        counted = weights * (pixels.labelled | pixels.outlier)
        return {"cross_entropy": (1.0, global_mean(values, counted))}

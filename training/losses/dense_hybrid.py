# SPDX-License-Identifier: Apache-2.0
"""The DenseHybrid compound loss: class posterior, unnormalised likelihood, dataset posterior."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from anomaly_seg_ros.contract import NetworkOutput
from training.losses.base import OpenSetLoss, WeightedTerms
from training.losses.checks import choice, number
from training.losses.cross_entropy import segmentation_term
from training.losses.outlier_head import VOID_MODES, head_values
from training.losses.reduction import global_mean

WEIGHTINGS = ("code", "paper")


class DenseHybridLoss(OpenSetLoss):
    r"""Compound loss of a hybrid open-set model.

    With the segmentation term :math:`L_{seg} = E_{in}[-\ln P(y|x)]` and the likelihood term
    :math:`L_{ood} = E_{out}[\ln\hat p(x)]`, :math:`\ln\hat p = \ln\sum_c\exp s_c` (the outlier
    part of eq. 14; it has no lower bound, negative values are normal):

    - ``paper`` (eq. 17): :math:`L_{seg} + E_{in}[-\ln P(d_{in}|x)] + \beta\,(E_{out}[-\ln
      P(d_{out}|x)] + L_{ood})`.
    - ``code``: :math:`L_{seg} + \beta L_{ood} + 10\beta L_{th}`, where :math:`L_{th}` is the
      two-way cross-entropy of the head, one mean over inliers and outliers together.

    Source: Grcic & Segvic, "Hybrid Open-set Segmentation with Synthetic Negative Data" (2023),
    and the weighting of their public code.

    Args:
        weighting: ``code`` or ``paper``.
        beta: 0.03 with real negatives, 0.01 with synthetic ones.
        head_weight: Weight of the outlier head's part. None = 10 beta (``code``), or 1 for inliers
            and beta for outliers (``paper``). A number replaces 10 beta, or multiplies both of the
            paper's weights.
        void_pixels: Treatment of void pixels by the head: ``ignored`` or ``inlier``.
        **options: See :class:`~training.losses.base.OpenSetLoss`.
    """

    needs_outlier_head = True

    def __init__(
        self,
        weighting: str = "code",
        beta: float = 0.03,
        head_weight: float | None = None,
        void_pixels: str = "ignored",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.weighting = choice("weighting", weighting, WEIGHTINGS)
        self.beta = number("beta", beta, 0)
        if head_weight is None:
            head_weight = 10 * self.beta if weighting == "code" else 1.0
        self.head_weight = number("head_weight", head_weight, 0)
        self.void_pixels = choice("void_pixels", void_pixels, VOID_MODES)

    def weighted_terms(
        self, output: NetworkOutput, labels: Tensor, ood_mask: Tensor
    ) -> WeightedTerms:
        """See the class."""
        pixels = self.pixels(output, labels, ood_mask)
        values, inlier, outlier = head_values(pixels, self.void_pixels)
        terms: WeightedTerms = {
            "segmentation": (1.0, segmentation_term(pixels, self.class_weights)),
            "likelihood": (self.beta, global_mean(pixels.logits.logsumexp(1), outlier)),
        }
        if self.weighting == "code":
            terms["head"] = (self.head_weight, global_mean(values, inlier | outlier))
        else:
            terms["head_inlier"] = (self.head_weight, global_mean(values, inlier))
            terms["head_outlier"] = (self.head_weight * self.beta, global_mean(values, outlier))
        return terms

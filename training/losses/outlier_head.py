# SPDX-License-Identifier: Apache-2.0
"""Two-way cross-entropy of the outlier head, the dataset posterior."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_seg_ros.contract import NetworkOutput
from training.losses.base import OpenSetLoss, WeightedTerms
from training.losses.checks import choice, number
from training.losses.cross_entropy import segmentation_term
from training.losses.grids import Pixels
from training.losses.reduction import global_mean

VOID_MODES = ("ignored", "inlier")


def head_values(pixels: Pixels, void_pixels: str) -> tuple[Tensor, Tensor, Tensor]:
    r"""Computes the negative log posterior of the true kind of each pixel, inlier or outlier.

    Args:
        pixels: Pixels with ``ood_logits``.
        void_pixels: With ``ignored``, only labelled pixels are inliers; with ``inlier``, void is
            too. The public DenseHybrid scripts use either. Pixels that the outlier mask ignores
            are neither.

    Returns:
        (N, h, w) values, and (N, h, w) bool masks of inliers and outliers.
    """
    inlier = pixels.labelled if void_pixels == "ignored" else pixels.ood_mask == 0
    outlier = pixels.outlier
    target = outlier.to(torch.int64)
    return F.cross_entropy(pixels.ood_logits, target, reduction="none"), inlier, outlier


class OutlierHeadLoss(OpenSetLoss):
    """Cross-entropy of classes and of the outlier head, without a term on outlier logits: "OH".

    With ``segmentation_weight`` 0 it is the head's loss alone, for a head on a frozen network.

    Source: Bevandic et al., "Dense open-set recognition based on training with noisy negative
    images" (IVC 2022), whose weight is 0.2; baseline of the synthetic-negatives paper's Table 4.

    Args:
        weight: Weight of the head's loss, which is one mean over all inlier and outlier pixels.
        void_pixels: ``ignored`` or ``inlier``; see :func:`head_values`.
        segmentation_weight: Weight of the cross-entropy of the classes.
        **options: See :class:`~training.losses.base.OpenSetLoss`.
    """

    needs_outlier_head = True

    def __init__(
        self,
        weight: float = 0.2,
        void_pixels: str = "ignored",
        segmentation_weight: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.weight = number("weight", weight, 0)
        self.void_pixels = choice("void_pixels", void_pixels, VOID_MODES)
        self.segmentation_weight = number("segmentation_weight", segmentation_weight, 0)

    def weighted_terms(
        self, output: NetworkOutput, labels: Tensor, ood_mask: Tensor
    ) -> WeightedTerms:
        """``L = L_id + weight L_head``."""
        if self.segmentation_weight == 0:
            # Upsampling logits that nobody reads is a third of a step.
            output = output._replace(logits=output.logits[:, :1])
        pixels = self.pixels(output, labels, ood_mask)
        values, inlier, outlier = head_values(pixels, self.void_pixels)
        terms: WeightedTerms = {"head": (self.weight, global_mean(values, inlier | outlier))}
        if self.segmentation_weight > 0:
            term = segmentation_term(pixels, self.class_weights)
            terms["segmentation"] = (self.segmentation_weight, term)
        return terms

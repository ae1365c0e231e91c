# SPDX-License-Identifier: Apache-2.0
"""Loss of the shipped model: top-K one-vs-rest on the logits, and the outlier head."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from anomaly_seg_ros.contract import NetworkOutput
from training.losses.base import WeightedTerms
from training.losses.checks import choice, number
from training.losses.logit_penalties import TopKOneVsRest
from training.losses.outlier_head import VOID_MODES, head_values
from training.losses.reduction import global_mean


class HybridOneVsRest(TopKOneVsRest):
    r"""DenseHybrid with its unbounded likelihood term replaced by the top-K one-vs-rest loss.

    :math:`L = L_{id} + \gamma L_{topK} + w L_{th}`. Both papers lower the logits of outliers;
    the one-vs-rest term stops when they are low enough. DenseHybrid's never does and, on a small
    network, continues at the expense of the known classes. The scores are still DenseHybrid's.

    Source: this project; the terms are eq. 1 of the top-K one-vs-rest paper and the dataset
    posterior of the synthetic-negatives paper.

    Args:
        head_weight: Weight w of the head's loss, which is one mean over all inlier and outlier
            pixels.
        void_pixels: Treatment of void pixels by the head: ``ignored`` or ``inlier``. Void is
            mostly between classes, where false alarms are frequent; as inlier it teaches the head
            that edges are not outliers.
        **options: See :class:`~training.losses.logit_penalties.TopKOneVsRest`.
    """

    needs_outlier_head = True

    def __init__(
        self, head_weight: float = 1.0, void_pixels: str = "inlier", **options: Any
    ) -> None:
        super().__init__(**options)
        self.head_weight = number("head_weight", head_weight, 0)
        self.void_pixels = choice("void_pixels", void_pixels, VOID_MODES)

    def weighted_terms(
        self, output: NetworkOutput, labels: Tensor, ood_mask: Tensor
    ) -> WeightedTerms:
        """See the class."""
        terms = super().weighted_terms(output, labels, ood_mask)
        values, inlier, outlier = head_values(
            self.pixels(output, labels, ood_mask), self.void_pixels
        )
        return {**terms, "head": (self.head_weight, global_mean(values, inlier | outlier))}

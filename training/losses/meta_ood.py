# SPDX-License-Identifier: Apache-2.0
"""Entropy maximisation on outliers, the "Meta-OOD" baseline."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from anomaly_seg_ros.contract import NetworkOutput
from training.losses.base import OpenSetLoss, WeightedTerms
from training.losses.checks import choice, number
from training.losses.cross_entropy import segmentation_term
from training.losses.reduction import global_count, global_mean


class MetaOod(OpenSetLoss):
    r"""Soft-target cross-entropy: :math:`1 - \alpha` at the label, :math:`\alpha / K` on outliers.

    Source: Chan et al., "Entropy Maximization and Meta Classification for Out-of-Distribution
    Detection in Semantic Segmentation" (ICCV 2021), and their public code.

    Args:
        alpha: Weight of the outliers; labelled pixels have 1 - alpha.
        average: ``pooled`` divides the sum over all pixels by the total number of labelled and
            outlier pixels, as in the public code (which also counts void and divides by K, but
            Adam cancels these constants). ``separate`` uses a mean over each set, as in the
            paper's equation.
        **options: See :class:`~training.losses.base.OpenSetLoss`.
    """

    def __init__(self, alpha: float = 0.9, average: str = "pooled", **options: Any) -> None:
        super().__init__(**options)
        self.alpha = number("alpha", alpha, 0, 1)
        self.average = choice("average", average, ("pooled", "separate"))

    def weighted_terms(
        self, output: NetworkOutput, labels: Tensor, ood_mask: Tensor
    ) -> WeightedTerms:
        """``L = (1 - alpha) L_id + alpha L_uniform``; the terms are means over their own set."""
        pixels = self.pixels(output, labels, ood_mask)
        uniform = pixels.logits.logsumexp(1) - pixels.logits.mean(1)
        inlier_share, outlier_share = 1.0, 1.0
        if self.average == "pooled":
            labelled = global_count(pixels.labelled).to(uniform.dtype)
            outliers = global_count(pixels.outlier).to(uniform.dtype)
            both = (labelled + outliers).clamp(min=1)
            inlier_share, outlier_share = labelled / both, outliers / both
        return {
            "segmentation": (
                (1 - self.alpha) * inlier_share,
                segmentation_term(pixels, self.class_weights),
            ),
            "uniform": (self.alpha * outlier_share, global_mean(uniform, pixels.outlier)),
        }

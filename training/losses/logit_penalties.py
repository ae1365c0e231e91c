# SPDX-License-Identifier: Apache-2.0
"""Losses that add a penalty on the logits of outlier pixels to the closed-set cross-entropy.

``L = L_id + gamma * mean over outlier pixels of penalty(logits)``. These are the losses that the
top-K one-vs-rest paper compares (Fig. 4); only the penalty differs.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.errors import ParameterError
from training.losses.base import OpenSetLoss, WeightedTerms
from training.losses.checks import choice, number
from training.losses.cross_entropy import segmentation_term
from training.losses.grids import GRIDS
from training.losses.reduction import global_mean


class LogitPenaltyLoss(OpenSetLoss):
    """Base of the losses with a logit penalty.

    Args:
        gamma: Weight of the penalty; 0.05 (WideResNet38) and 0.01 (ResNet101) in the paper.
        ood_grid: Grid of the penalty. In the paper, it is evaluated on the logits before the last
            upsampling; ``mask_to_grid`` says how to downsample the outlier mask.
        **options: See :class:`~training.losses.base.OpenSetLoss`.
    """

    def __init__(self, gamma: float = 0.05, ood_grid: str = "logits", **options: Any) -> None:
        super().__init__(**options)
        self.gamma = number("gamma", gamma, 0)
        self.ood_grid = choice("ood_grid", ood_grid, GRIDS)

    def penalty(self, logits: Tensor) -> Tensor:
        """Maps (N, K, h, w) logits to (N, h, w), larger for confident pixels."""
        raise NotImplementedError

    def weighted_terms(
        self, output: NetworkOutput, labels: Tensor, ood_mask: Tensor
    ) -> WeightedTerms:
        """``L = L_id + gamma L_ood``."""
        pixels = self.pixels(output, labels, ood_mask)
        segmentation = segmentation_term(pixels, self.class_weights)
        if self.ood_grid != self.grid:
            pixels = self.pixels(output, labels, ood_mask, self.ood_grid)
        ood = global_mean(self.penalty(pixels.logits), pixels.outlier)
        return {"segmentation": (1.0, segmentation), "ood": (self.gamma, ood)}


class TopKOneVsRest(LogitPenaltyLoss):
    r"""One-vs-rest loss of the K largest logits, :math:`\frac1K \sum_k -\ln\sigma(-s\lambda_k)`.

    Source: the top-K one-vs-rest paper (style-aligned OoD augmentation), eq. 1.

    Args:
        k: Number of logits per pixel, K; None, or more than there are, = all classes (the paper's
            "OvR").
        slope: Factor s of the logits.
        gamma, **options: See :class:`LogitPenaltyLoss`.
    """

    def __init__(
        self, k: int | None = 5, slope: float = 2.0, gamma: float = 0.05, **options: Any
    ) -> None:
        super().__init__(gamma, **options)
        if k is not None and (not isinstance(k, int) or isinstance(k, bool) or k < 1):
            raise ParameterError(f"option 'k' is {k!r}, expected a whole number from 1 or None")
        self.k = k
        self.slope = number("slope", slope, 0, open_low=True)

    def penalty(self, logits: Tensor) -> Tensor:
        """Mean softplus of the scaled top-K logits."""
        if self.k is not None and self.k < logits.shape[1]:
            logits = logits.topk(self.k, dim=1, sorted=False).values
        return F.softplus(self.slope * logits).mean(1)


class FreeEnergyMaximisation(LogitPenaltyLoss):
    r"""Raises the free energy of outliers: the penalty is :math:`\ln \sum_c \exp l_c`.

    It has no lower bound, so negative values are normal.

    Source: "Energy" in Fig. 4 of the top-K one-vs-rest paper; the outlier term of DenseHybrid
    (eq. 14 of the synthetic-negatives paper).
    """

    def penalty(self, logits: Tensor) -> Tensor:
        """Log-sum-exp over the classes."""
        return logits.logsumexp(1)


class UniformTarget(LogitPenaltyLoss):
    r"""Cross-entropy to the uniform distribution, :math:`-\frac1K \sum_c \ln P(c | x)`.

    Source: "Uniform" in Fig. 4 of the top-K one-vs-rest paper; Hendrycks et al., "Deep Anomaly
    Detection with Outlier Exposure" (ICLR 2019).
    """

    def penalty(self, logits: Tensor) -> Tensor:
        """Log-sum-exp minus the mean logit."""
        return logits.logsumexp(1) - logits.mean(1)

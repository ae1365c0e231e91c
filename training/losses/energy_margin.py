# SPDX-License-Identifier: Apache-2.0
"""Energy fine-tuning with margins."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.errors import ParameterError
from training.losses.base import OpenSetLoss, WeightedTerms
from training.losses.checks import number
from training.losses.cross_entropy import segmentation_term
from training.losses.reduction import global_mean


def margins(m_in: float, m_out: float) -> tuple[float, float]:
    """Checks a pair of energy margins.

    Raises:
        ParameterError: The margin of inliers is above that of outliers.
    """
    m_in, m_out = number("m_in", m_in), number("m_out", m_out)
    if m_in > m_out:
        raise ParameterError(f"option 'm_in' is {m_in}, expected at most m_out = {m_out}")
    return m_in, m_out


class EnergyMargin(OpenSetLoss):
    r"""Squared hinges that push the energy of inliers below and of outliers above a margin.

    :math:`L = L_{id} + w\,(E_{in}[\max(0, E - m_{in})^2] + E_{out}[\max(0, m_{out} - E)^2])`,
    :math:`E = -\ln\sum_c\exp l_c`.

    Source: Liu et al., "Energy-based Out-of-distribution Detection" (NeurIPS 2020), section 3.3
    (w = 0.1), with the margins of the synthetic-negatives paper for dense prediction (Table 4).

    Args:
        m_in, m_out: Margins in nats.
        weight: Weight of the hinges, w.
        **options: See :class:`~training.losses.base.OpenSetLoss`.
    """

    def __init__(
        self, m_in: float = -15.0, m_out: float = -5.0, weight: float = 0.1, **options: Any
    ) -> None:
        super().__init__(**options)
        self.m_in, self.m_out = margins(m_in, m_out)
        self.weight = number("weight", weight, 0)

    def weighted_terms(
        self, output: NetworkOutput, labels: Tensor, ood_mask: Tensor
    ) -> WeightedTerms:
        """See the class."""
        pixels = self.pixels(output, labels, ood_mask)
        energy = -pixels.logits.logsumexp(1)
        above = F.relu(energy - self.m_in).square()
        below = F.relu(self.m_out - energy).square()
        return {
            "segmentation": (1.0, segmentation_term(pixels, self.class_weights)),
            "energy_inlier": (self.weight, global_mean(above, pixels.labelled)),
            "energy_outlier": (self.weight, global_mean(below, pixels.outlier)),
        }

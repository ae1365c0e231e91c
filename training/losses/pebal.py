# SPDX-License-Identifier: Apache-2.0
"""Pixel-wise energy-biased abstention learning (PEBAL)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_seg_ros.contract import NetworkOutput
from training.losses.base import OpenSetLoss, WeightedTerms
from training.losses.checks import choice, number
from training.losses.energy_margin import margins
from training.losses.grids import Pixels
from training.losses.reduction import global_count, global_mean, global_sum
from training.posthoc.base import gaussian_smooth

# Keeps the logarithm of the reward finite if the free energy crosses 0.
_MIN_REWARD = 1e-6
# Lower bound of the first logarithm in the public code.
_CODE_FLOOR = 1e-7


class Pebal(OpenSetLoss):
    r"""Gambler loss with an energy-dependent reward, and energy margins.

    The network has K + 1 logits; the last channel, index K, is the abstention class (see
    :mod:`training.losses.abstention`). With p the softmax over all K + 1,
    :math:`E = -\ln\sum_{c<K}\exp l_c` and the reward :math:`a` = Gaussian blur (7 x 7, sigma 1)
    of :math:`E^2`:

    - gambler, labelled pixels: mean of :math:`-\ln(p_y + p_K / a)`;
    - gambler, outliers: mean over pixels and classes of :math:`-\ln(p_c + p_K / a)`, weight 0.1;
    - energy, total weight 0.1: half the sum of mean :math:`\max(0, E_{in} - m_{in})^2` and mean
      :math:`\max(0, m_{out} - E_{out})^2` (without outliers the inliers count fully), plus
      ``sparsity`` times mean :math:`|E_{out}|`, plus ``smoothness`` times half the sum of squared
      differences of E between neighbours, over the whole batch.

    Source: Tian et al., "Pixel-wise Energy-biased Abstention Learning for Anomaly Segmentation on
    Complex Urban Driving Scenes" (ECCV 2022), and the constants of their public code. Two things
    differ from that code: it takes separate gambler means over images with and without outliers,
    and as sparsity the Euclidean norm of all :math:`E_{out}`.

    Args:
        m_in, m_out: Energy margins in nats.
        energy_weight: Weight of the energy part.
        outlier_weight: Weight of the outliers' gambler loss.
        outlier_log: ``single`` is the formula above. ``double`` reproduces the public code: a
            second logarithm, of the first one clamped from below at 1e-7. It has no gradient
            wherever :math:`p_c + p_K / a \le 1`.
        sparsity, smoothness: Weights inside the energy part.
        **options: See :class:`~training.losses.base.OpenSetLoss`; ``class_weights`` do not apply.
    """

    extra_logits = 1

    def __init__(
        self,
        m_in: float = -12.0,
        m_out: float = -6.0,
        energy_weight: float = 0.1,
        outlier_weight: float = 0.1,
        outlier_log: str = "single",
        sparsity: float = 5e-4,
        smoothness: float = 3e-6,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.m_in, self.m_out = margins(m_in, m_out)
        self.energy_weight = number("energy_weight", energy_weight, 0)
        self.outlier_weight = number("outlier_weight", outlier_weight, 0)
        self.outlier_log = choice("outlier_log", outlier_log, ("single", "double"))
        self.sparsity = number("sparsity", sparsity, 0)
        self.smoothness = number("smoothness", smoothness, 0)

    def weighted_terms(
        self, output: NetworkOutput, labels: Tensor, ood_mask: Tensor
    ) -> WeightedTerms:
        """See the class."""
        pixels = self.pixels(output, labels, ood_mask)
        energy = -pixels.logits[:, :-1].logsumexp(1)
        return {**self._gambler(pixels, energy), **self._energy(pixels, energy)}

    def _gambler(self, pixels: Pixels, energy: Tensor) -> WeightedTerms:
        reward = gaussian_smooth(energy.square(), size=7, sigma=1.0, padding="reflect")
        log_p = pixels.logits.log_softmax(1)
        hedge = log_p[:, -1:] - reward.clamp(min=_MIN_REWARD).log()[:, None]
        # ln(p_c + p_K / a) for every class c < K.
        log_doubling = torch.logaddexp(log_p[:, :-1], hedge)
        labels = torch.where(pixels.labelled, pixels.labels, 0)
        inlier = -log_doubling.gather(1, labels[:, None])[:, 0]
        if self.outlier_log == "double":
            log_doubling = log_doubling.clamp(min=_CODE_FLOOR).log()
        outlier = -log_doubling.mean(1)
        return {
            "gambler_inlier": (1.0, global_mean(inlier, pixels.labelled)),
            "gambler_outlier": (self.outlier_weight, global_mean(outlier, pixels.outlier)),
        }

    def _energy(self, pixels: Pixels, energy: Tensor) -> WeightedTerms:
        above = F.relu(energy - self.m_in).square()
        below = F.relu(self.m_out - energy).square()
        inlier_share = torch.where(global_count(pixels.outlier) > 0, 0.5, 1.0).to(energy.dtype)
        roughness = global_sum(energy.diff(dim=1).square()) + global_sum(
            energy.diff(dim=2).square()
        )
        w = self.energy_weight
        return {
            "energy_inlier": (w * inlier_share, global_mean(above, pixels.labelled)),
            "energy_outlier": (w * 0.5, global_mean(below, pixels.outlier)),
            "sparsity": (w * self.sparsity, global_mean(energy.abs(), pixels.outlier)),
            "smoothness": (w * self.smoothness, roughness / 2),
        }

"""Cross-unit coupling: noise channels whose distribution depends on what came before."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.flow.invertible import bounded_log_scale
from training.flow.layers import sum_per_image

_WIDENING = 4


class CrossUnitNoise(nn.Module):
    """Turns standard noise into extra channels: ``e = m(c) + exp(s(c)) * eta``.

    The flow then models image and noise together. Since
    ``ln p(x) >= E_eta[ln p(x, e) - ln q(e | x)]``, the pair (eta -> e) enters the likelihood as a
    change of variables: its log-determinant here, and minus the density of eta in
    :meth:`~training.flow.dense_flow.DenseFlow.log_prob`. m and s are 0 before training.

    Source: Grcic et al., "Densely connected normalizing flows" (NeurIPS 2021), section 3.1.

    Args:
        context_channels: Of c, what the earlier units saw.
        growth: Noise channels.
    """

    def __init__(self, context_channels: int, growth: int) -> None:
        super().__init__()
        wide = _WIDENING * context_channels
        self.widen = nn.Conv2d(context_channels, wide, 3, padding=1)
        self.leave = nn.Conv2d(wide, 2 * growth, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, context: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Shapes the noise.

        Args:
            context: (N, context_channels, H, W).
            noise: (N, growth, H, W), eta.

        Returns:
            e, shaped like ``noise``, and (N,) ln |det de/deta|.
        """
        mean, raw_scale = self.leave(F.relu(self.widen(context))).chunk(2, 1)
        log_scale = bounded_log_scale(raw_scale)
        return mean + noise * torch.exp(log_scale), sum_per_image(log_scale)

# SPDX-License-Identifier: Apache-2.0
"""NECO: the share of a feature that lies in the principal directions of the training features."""

from __future__ import annotations

import torch
from torch import Tensor

from anomaly_seg_ros.contract import NetworkOutput
from training.posthoc.base import OutputScore, on_logits_grid
from training.posthoc.principal import axes_for, principal_axes
from training.posthoc.training_pixels import TrainingPixels

_CONSTANT = 1e-7


class Neco(OutputScore):
    r"""Minus :math:`\frac{\|P z\|}{\|z\|} \max_c l_c`.

    z are the pre-logits, each channel standardised by the training pixels' mean and deviation, and
    P projects onto their first principal directions.

    Source: Ben Ammar et al., "NECO: Neural Collapse Based Out-of-distribution Detection" (ICLR
    2024), eq. 6, with the standardisation and the factor :math:`\max_c l_c` of their public code.

    Args:
        pixels: What the network says on in-distribution images.
        variance: P keeps as many directions as hold this share of the variance.
        times_max_logit: False leaves the factor out, as their code does for ResNets.

    Raises:
        ParameterError: An option is out of range.
    """

    def __init__(
        self, pixels: TrainingPixels, variance: float = 0.9, times_max_logit: bool = True
    ) -> None:
        features = pixels.pre_logits.double()
        mean, std = features.mean(0), features.std(0, correction=0)
        # A channel that never changes, but for rounding, is not blown up.
        std = torch.where(std > _CONSTANT * mean.abs(), std, 1.0)
        values, axes = principal_axes((features - mean) / std)
        self.mean, self.std = mean.float(), std.float()
        self.axes = axes[:, : axes_for(values, variance)].float()
        self.times_max_logit = times_max_logit

    def of(self, output: NetworkOutput) -> Tensor:
        """See the class."""
        z = output.pre_logits.float().movedim(1, -1)
        z = (z - self.mean.to(z.device)) / self.std.to(z.device)
        inside = (z @ self.axes.to(z.device)).norm(dim=-1)
        smallest = torch.finfo(torch.float32).tiny
        share = on_logits_grid(inside / z.norm(dim=-1).clamp(min=smallest), output)
        return -share * output.logits.amax(1).float() if self.times_max_logit else -share

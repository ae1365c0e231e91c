# SPDX-License-Identifier: Apache-2.0
"""ODIN: temperature scaling and a perturbation of the input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anomaly_seg_ros.errors import ParameterError


class Odin:
    r"""Maximum softmax probability at high temperature of an input moved towards confidence.

    :math:`\tilde x = x - \epsilon\,\mathrm{sign}(-\nabla_x \sum \ln P_{\hat y}(x; T))`, the sum
    over the pixels; the score is :math:`1/K - \max_c P_c(\tilde x; T)` (:math:`1 - \max` less a
    constant: at T = 1000 the probabilities differ only in digits that float32 would lose in 1 -
    p).

    Source: Liang, Li & Srikant, "Enhancing the Reliability of Out-of-distribution Image Detection
    in Neural Networks" (ICLR 2018); the magnitude is their public default.

    Args:
        temperature: T.
        magnitude: epsilon on the [0, 1] scale of the pixels.
        std: What the network's inputs were divided by, one number a channel.

    Raises:
        ParameterError: An option out of range.
    """

    def __init__(
        self,
        temperature: float = 1000.0,
        magnitude: float = 0.0014,
        std: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> None:
        if temperature <= 0 or magnitude < 0 or len(std) != 3 or min(std) <= 0:
            raise ParameterError(
                f"options temperature {temperature}, magnitude {magnitude}, std {tuple(std)}: "
                "expected a positive temperature, a magnitude of at least 0 and 3 positive std"
            )
        self.temperature = temperature
        self.magnitude = magnitude
        self.std = tuple(std)

    def __call__(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Returns (N, h, w) float32 on the logits' grid."""
        if self.magnitude > 0:
            inputs = self._perturb(network, inputs)
        with torch.inference_mode():
            logits = network(inputs).logits.float() / self.temperature
            others = torch.expm1(logits - logits.amax(1, keepdim=True)).sum(1)
            classes = logits.shape[1]
            # The largest probability is 1 / (K + others).
            return others / (classes * (classes + others))

    def _perturb(self, network: nn.Module, inputs: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            # A tensor made under inference_mode cannot require a gradient; its clone can.
            variable = inputs.detach().clone().requires_grad_(True)
            logits = network(variable).logits.float() / self.temperature
            confidence = logits.log_softmax(1).amax(1).sum()
            (gradient,) = torch.autograd.grad(confidence, variable)
        std = torch.tensor(self.std, dtype=inputs.dtype, device=inputs.device).view(1, 3, 1, 1)
        return inputs + self.magnitude / std * gradient.sign()

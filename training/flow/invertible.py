# SPDX-License-Identifier: Apache-2.0
"""Invertible layers of normalizing flows, each with its log-determinant and its inverse.

Every layer maps ``forward(x) -> (z, log_det)`` and ``inverse(z) -> x`` on tensors (N, C, H, W).
``log_det`` is (N, H, W), and its sum over the pixels is ln |det dz/dx| in nats. For a layer that
treats each pixel separately, it is the log-determinant of that pixel's own map.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SCALE_BOUND = 2.0
_MIN_STD = 1e-6


def bounded_log_scale(raw: Tensor) -> Tensor:
    """``2 tanh(a / 2)``: the identity near 0, bounded by +-2."""
    return _SCALE_BOUND * torch.tanh(raw / _SCALE_BOUND)


class ActNorm(nn.Module):
    """Shift and scale per channel, initialised from data.

    ``z = (x - shift) exp(-log_scale)``, the identity at first. After ``pending`` has been set, the
    next forward pass chooses both so that its output has zero mean and unit variance.

    Source: Kingma & Dhariwal, "Glow" (NeurIPS 2018), section 3.1.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.pending = False

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalises."""
        if self.pending:
            self._set_from(x)
        z = (x - self.shift) * torch.exp(-self.log_scale)
        return z, _everywhere(-self.log_scale.sum(), x)

    def inverse(self, z: Tensor) -> Tensor:
        """Inverts :meth:`forward`."""
        return z * torch.exp(self.log_scale) + self.shift

    @torch.no_grad()
    def _set_from(self, x: Tensor) -> None:
        std, mean = torch.std_mean(x, dim=(0, 2, 3), keepdim=True)
        self.shift.copy_(mean)
        self.log_scale.copy_(torch.log(std.clamp(min=_MIN_STD)))
        self.pending = False


class InvertibleConv1x1(nn.Module):
    """Learned invertible mixing of the channels, initially a rotation.

    Source: Kingma & Dhariwal, "Glow" (NeurIPS 2018), section 3.2.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(channels, channels)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mixes."""
        log_det = torch.linalg.slogdet(self.weight).logabsdet
        return self._mix(x, self.weight), _everywhere(log_det, x)

    def inverse(self, z: Tensor) -> Tensor:
        """Inverts :meth:`forward`; the inverse matrix is computed in float64."""
        return self._mix(z, torch.linalg.inv(self.weight.double()).to(z.dtype))

    @staticmethod
    def _mix(x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight[:, :, None, None])


class AffineCoupling(nn.Module):
    """Scales and shifts one half of the channels given the other half, then swaps the halves.

    ``z2 = x2 exp(s(x1)) + t(x1)`` with s = 2 tanh(a / 2). If C is odd, the conditioning half is
    the larger one. The swap lets the next coupling act on the other half.

    Source: Dinh et al., "Density estimation using Real NVP" (ICLR 2017), section 3.2.

    Args:
        channels: C.
        build_net: Builds the network from its numbers of input and output channels; the first
            half of its output is a, the second t.
    """

    def __init__(self, channels: int, build_net: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.moved = channels // 2
        self.kept = channels - self.moved
        self.net = build_net(self.kept, 2 * self.moved)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Couples and swaps."""
        x1, x2 = x.split([self.kept, self.moved], 1)
        log_scale, shift = self._scale_and_shift(x1)
        z2 = x2 * torch.exp(log_scale) + shift
        return torch.cat([z2, x1], 1), log_scale.sum(1)

    def inverse(self, z: Tensor) -> Tensor:
        """Inverts :meth:`forward`."""
        z2, x1 = z.split([self.moved, self.kept], 1)
        log_scale, shift = self._scale_and_shift(x1)
        x2 = (z2 - shift) * torch.exp(-log_scale)
        return torch.cat([x1, x2], 1)

    def _scale_and_shift(self, x1: Tensor) -> tuple[Tensor, Tensor]:
        raw_scale, shift = self.net(x1).chunk(2, 1)
        return bounded_log_scale(raw_scale), shift


def set_from_next_batch(flow: nn.Module) -> None:
    """Makes every ActNorm of a flow initialise itself in the next forward pass."""
    for module in flow.modules():
        if isinstance(module, ActNorm):
            module.pending = True


def sum_per_image(x: Tensor) -> Tensor:
    """Sums (N, ...) to (N,)."""
    return x.flatten(1).sum(1)


def squeeze(x: Tensor) -> Tensor:
    """Moves 2x2 pixels into channels: (N, C, H, W) to (N, 4 C, H / 2, W / 2).

    Like ``F.pixel_unshuffle``, which does not reshape an empty batch.
    """
    pairs = x.unflatten(3, (x.shape[3] // 2, 2)).unflatten(2, (x.shape[2] // 2, 2))
    return pairs.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)


def unsqueeze(z: Tensor) -> Tensor:
    """Inverse of :func:`squeeze`."""
    pairs = z.unflatten(1, (z.shape[1] // 4, 2, 2))
    return pairs.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)


def _everywhere(value: Tensor, x: Tensor) -> Tensor:
    """Expands a scalar to all pixels of ``x``: (N, H, W)."""
    return value.expand(x.shape[0], *x.shape[2:])

"""Invertible layers of normalizing flows, each with its log-determinant and its inverse.

Every layer maps ``forward(x) -> (z, log_det)`` and ``inverse(z) -> x`` on tensors (N, C, H, W).
``log_det`` is (N, H, W): its sum over the pixels is ln |det dz/dx| in nats. Where a layer looks at
each pixel alone, it is the log-determinant of that pixel's own map.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SCALE_BOUND = 2.0
_MIN_STD = 1e-6


def bounded_log_scale(raw: Tensor) -> Tensor:
    """``2 tanh(a / 2)``: the identity near 0, never beyond +-2."""
    return _SCALE_BOUND * torch.tanh(raw / _SCALE_BOUND)


class ActNorm(nn.Module):
    """Shift and scale of every channel, set by the first data.

    ``z = (x - shift) exp(-log_scale)``. An identity until data has been seen: set ``pending`` and
    the next forward pass makes its own output zero-mean and unit-variance.

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
        """Undoes :meth:`forward`."""
        return z * torch.exp(self.log_scale) + self.shift

    @torch.no_grad()
    def _set_from(self, x: Tensor) -> None:
        std, mean = torch.std_mean(x, dim=(0, 2, 3), keepdim=True)
        self.shift.copy_(mean)
        self.log_scale.copy_(torch.log(std.clamp(min=_MIN_STD)))
        self.pending = False


class InvertibleConv1x1(nn.Module):
    """A learned invertible mixing of the channels, a rotation at first.

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
        """Undoes :meth:`forward`; the inverse matrix is computed in float64."""
        return self._mix(z, torch.linalg.inv(self.weight.double()).to(z.dtype))

    @staticmethod
    def _mix(x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight[:, :, None, None])


class AffineCoupling(nn.Module):
    """Half of the channels scales and shifts the other half; then the halves change places.

    ``z2 = x2 exp(s(x1)) + t(x1)`` with s = 2 tanh(a / 2). With an odd C the conditioning half is
    the larger one. The exchange lets the next coupling act on the other half.

    Source: Dinh et al., "Density estimation using Real NVP" (ICLR 2017), section 3.2.

    Args:
        channels: C.
        build_net: Makes the network from its numbers of input and output channels; the first half
            of the output is a, the second t.
    """

    def __init__(self, channels: int, build_net: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.moved = channels // 2
        self.kept = channels - self.moved
        self.net = build_net(self.kept, 2 * self.moved)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Couples and exchanges."""
        x1, x2 = x.split([self.kept, self.moved], 1)
        log_scale, shift = self._scale_and_shift(x1)
        z2 = x2 * torch.exp(log_scale) + shift
        return torch.cat([z2, x1], 1), log_scale.sum(1)

    def inverse(self, z: Tensor) -> Tensor:
        """Undoes :meth:`forward`."""
        z2, x1 = z.split([self.moved, self.kept], 1)
        log_scale, shift = self._scale_and_shift(x1)
        x2 = (z2 - shift) * torch.exp(-log_scale)
        return torch.cat([x1, x2], 1)

    def _scale_and_shift(self, x1: Tensor) -> tuple[Tensor, Tensor]:
        raw_scale, shift = self.net(x1).chunk(2, 1)
        return bounded_log_scale(raw_scale), shift


def set_from_next_batch(flow: nn.Module) -> None:
    """Lets every ActNorm of a flow take mean and deviation from the next forward pass."""
    for module in flow.modules():
        if isinstance(module, ActNorm):
            module.pending = True


def _everywhere(value: Tensor, x: Tensor) -> Tensor:
    """The same scalar at every pixel of ``x``: (N, H, W)."""
    return value.expand(x.shape[0], *x.shape[2:])

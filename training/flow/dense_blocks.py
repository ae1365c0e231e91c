# SPDX-License-Identifier: Apache-2.0
"""The parts of DenseFlow: sizes, coupling networks, cross-unit noise, steps and blocks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from anomaly_seg_ros.errors import ParameterError
from training.flow.invertible import (
    ActNorm,
    AffineCoupling,
    InvertibleConv1x1,
    bounded_log_scale,
    sum_per_image,
)

_WIDENING = 4


@dataclass(frozen=True)
class FlowSize:
    """Size of a flow; names such as ``25-6`` mean "layers in total - noise channels per unit".

    Attributes:
        units: Number of units per block; ``growth`` noise channels are added between units.
        layers: Steps (ActNorm, 1x1 convolution, coupling) per unit, for each block.
        growth: Noise channels added by each unit after the first.
        mid_channels: Width of the coupling networks.
        coupling_depth, coupling_growth: Densely connected layers of the coupling networks, and
            channels added by each.
    """

    units: tuple[int, ...]
    layers: tuple[int, ...]
    growth: int
    mid_channels: int
    coupling_depth: int = 7
    coupling_growth: int = 64

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this, because each block squeezes once."""
        return 2 ** len(self.units)


# 25-6 comes from the public joint-training code; 74-10 is the published large model, without its
# attention and its variational dequantisation.
# No public file defines the second paper's 45-6. The two known sizes spread their layers about
# evenly over three blocks with fewer and fewer units, down to 1 (9 + 8 + 8 and 30 + 24 + 20). An
# even split of 45 of this kind is 5 x 3 + 3 x 5 + 1 x 15. The width is that of 25-6, which has the
# same growth.
SIZES: dict[str, FlowSize] = {
    "25-6": FlowSize((3, 2, 1), (3, 4, 8), growth=6, mid_channels=32),
    "45-6": FlowSize((5, 3, 1), (3, 5, 15), growth=6, mid_channels=32),
    "74-10": FlowSize((6, 4, 1), (5, 6, 20), growth=10, mid_channels=48),
    # For tests, and for a laptop.
    "tiny": FlowSize((2, 2, 1), (1, 1, 2), 2, 8, coupling_depth=2, coupling_growth=8),
    "small": FlowSize((2, 2, 1), (2, 2, 4), 4, 16, coupling_depth=3, coupling_growth=24),
}


def flow_size(name: str) -> FlowSize:
    """Looks up a size by name.

    Raises:
        ParameterError: There is no such size.
    """
    if name not in SIZES:
        raise ParameterError(f"flow size {name!r}; known: {', '.join(SIZES)}")
    return SIZES[name]


class DenseLayer(nn.Module):
    """Appends ``growth`` new channels to its input: 1x1 - ReLU - 3x3 - ReLU.

    Args:
        channels: Input channels.
        growth: Channels added.
    """

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.blend = nn.Conv2d(channels, channels, 1)
        self.grow = nn.Conv2d(channels, growth, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, C + growth, H, W)."""
        new = F.relu(self.grow(F.relu(self.blend(x))))
        return torch.cat([x, new], 1)


class CouplingNet(nn.Module):
    """Network inside a coupling: densely connected layers and a gated residual, zero at first.

    Layout: Grcic et al., "Densely connected normalizing flows" (NeurIPS 2021), with the numbers
    of the public joint-training code (depth 7, growth 64). It has neither attention nor BatchNorm,
    so images do not influence each other and may have any size.

    Args:
        in_channels, out_channels: Input and output channels.
        mid_channels: Width of the residual.
        depth: Number of dense layers.
        growth: Channels added by each dense layer.
    """

    def __init__(
        self, in_channels: int, out_channels: int, mid_channels: int, depth: int, growth: int
    ) -> None:
        super().__init__()
        self.enter = nn.Conv2d(in_channels, mid_channels, 1)
        self.dense = nn.Sequential(
            *(DenseLayer(mid_channels + i * growth, growth) for i in range(depth))
        )
        self.gate = nn.Conv2d(mid_channels + depth * growth, 3 * mid_channels, 1)
        self.leave = nn.Conv2d(mid_channels, out_channels, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in, H, W) to (N, out, H, W)."""
        x = self.enter(x)
        base, amount, gate = self.gate(self.dense(x)).chunk(3, 1)
        return self.leave(x + base + amount * torch.sigmoid(gate))


class CrossUnitNoise(nn.Module):
    """Turns standard noise into extra channels: ``e = m(c) + exp(s(c)) * eta``.

    The flow then models image and noise together. Since
    ``ln p(x) >= E_eta[ln p(x, e) - ln q(e | x)]``, the pair (eta -> e) enters the likelihood as a
    change of variables: its log-determinant here, and minus the density of eta in
    :meth:`~training.flow.dense_flow.DenseFlow.log_prob`. m and s are 0 before training.

    Source: Grcic et al., "Densely connected normalizing flows" (NeurIPS 2021), section 3.1.

    Args:
        context_channels: Channels of the context c, the inputs and outputs of earlier units.
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
        """Transforms standard noise.

        Args:
            context: (N, context_channels, H, W).
            noise: (N, growth, H, W), eta.

        Returns:
            e, shaped like ``noise``, and (N,) ln |det de/deta|.
        """
        mean, raw_scale = self.leave(F.relu(self.widen(context))).chunk(2, 1)
        log_scale = bounded_log_scale(raw_scale)
        return mean + noise * torch.exp(log_scale), sum_per_image(log_scale)


class FlowStep(nn.Module):
    """ActNorm, 1x1 convolution and affine coupling; the "layer" counted in a size's name.

    Args:
        channels: C.
        mid_channels, depth, growth: See :class:`CouplingNet`.
        checkpointing: Keep only the input for the backward pass and recompute the rest.
    """

    def __init__(
        self, channels: int, mid_channels: int, depth: int, growth: int, checkpointing: bool
    ) -> None:
        super().__init__()
        self.norm = ActNorm(channels)
        self.mix = InvertibleConv1x1(channels)
        build_net = partial(CouplingNet, mid_channels=mid_channels, depth=depth, growth=growth)
        self.couple = AffineCoupling(channels, build_net)
        self.checkpointing = checkpointing

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps towards the latents; the log-determinant is (N,)."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(self._forward, x, use_reentrant=False, preserve_rng_state=False)
        return self._forward(x)

    def inverse(self, z: Tensor) -> Tensor:
        """Maps towards the image."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(self._inverse, z, use_reentrant=False, preserve_rng_state=False)
        return self._inverse(z)

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x, norm = self.norm(x)
        x, mix = self.mix(x)
        x, couple = self.couple(x)
        return x, sum_per_image(norm + mix + couple)

    def _inverse(self, z: Tensor) -> Tensor:
        return self.norm.inverse(self.mix.inverse(self.couple.inverse(z)))


class FlowBlock(nn.Module):
    """Units at one resolution; each unit after the first works on ``growth`` more channels.

    The noise before unit i is conditioned on the input of the block and on the outputs of all
    earlier units except the last (the layout of the public code, as its parameter count shows).

    Args:
        channels: Input channels, C.
        units: Number of units.
        layers: Steps per unit.
        size: Growth and coupling networks.
        checkpointing: See :class:`FlowStep`.
    """

    def __init__(
        self, channels: int, units: int, layers: int, size: FlowSize, checkpointing: bool
    ) -> None:
        super().__init__()
        self.growth = size.growth
        self.units = nn.ModuleList()
        self.noises = nn.ModuleList()
        context = channels
        for unit in range(units):
            width = channels + unit * size.growth
            if unit:
                self.noises.append(CrossUnitNoise(context, size.growth))
                context += width - size.growth
            steps = (
                FlowStep(
                    width,
                    size.mid_channels,
                    size.coupling_depth,
                    size.coupling_growth,
                    checkpointing,
                )
                for _ in range(layers)
            )
            self.units.append(nn.ModuleList(steps))
        self.out_channels = channels + (units - 1) * size.growth

    def forward(self, x: Tensor, noises: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps towards the latents.

        Args:
            x: (N, C, H, W).
            noises: One (N, growth, H, W) tensor for each unit after the first.

        Returns:
            (N, out_channels, H, W), and (N,) ln |det| of the map from (x, noises).
        """
        log_det = x.new_zeros(x.shape[0])
        seen = [x]
        for index, unit in enumerate(self.units):
            if index:
                extra, change = self.noises[index - 1](torch.cat(seen, 1), noises[index - 1])
                seen.append(x)
                x = torch.cat([x, extra], 1)
                log_det = log_det + change
            for step in unit:
                x, change = step(x)
                log_det = log_det + change
        return x, log_det

    def inverse(self, z: Tensor) -> Tensor:
        """Maps towards the image and drops the noise channels."""
        for index in reversed(range(len(self.units))):
            for step in reversed(self.units[index]):
                z = step.inverse(z)
            if index:
                z = z[:, : -self.growth]
        return z

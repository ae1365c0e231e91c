"""One step of DenseFlow, and the moving of pixels into channels."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from training.flow.coupling_net import CouplingNet
from training.flow.invertible import ActNorm, AffineCoupling, InvertibleConv1x1


def sum_per_image(x: Tensor) -> Tensor:
    """Maps (N, ...) to (N,)."""
    return x.flatten(1).sum(1)


def squeeze(x: Tensor) -> Tensor:
    """Moves 2x2 pixels into channels: (N, C, H, W) to (N, 4 C, H / 2, W / 2).

    As ``F.pixel_unshuffle``, which leaves an empty batch as it is.
    """
    pairs = x.unflatten(3, (x.shape[3] // 2, 2)).unflatten(2, (x.shape[2] // 2, 2))
    return pairs.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)


def unsqueeze(z: Tensor) -> Tensor:
    """Inverse of :func:`squeeze`."""
    pairs = z.unflatten(1, (z.shape[1] // 4, 2, 2))
    return pairs.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)


class FlowStep(nn.Module):
    """ActNorm, 1x1 convolution, affine coupling: the "layer" that a size's name counts.

    Args:
        channels: C.
        mid_channels, depth, growth: Of the coupling network.
        checkpointing: Keep only the input for the backward pass and compute the inside again.
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

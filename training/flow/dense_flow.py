"""DenseFlow: a normalizing flow over images of any size, with likelihood and fast sampling."""

from __future__ import annotations

import contextlib
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from anomaly_seg_ros.errors import ImageError, ParameterError
from training.flow.blocks import FlowBlock
from training.flow.dequantisation import dequantise, log_bin_volume, to_levels
from training.flow.invertible import set_from_next_batch
from training.flow.layers import squeeze, unsqueeze
from training.flow.noise import log_standard_normal, standard_normal
from training.flow.sizes import FlowSize, flow_size


class Encoding(NamedTuple):
    """What an image becomes.

    Attributes:
        latents: (N, C_i, H / 2^i, W / 2^i): the halves factored out after each block, the last
            one whole.
        log_det: (N,) ln |det| of the map from (image, noise) to the latents.
    """

    latents: list[Tensor]
    log_det: Tensor


class DenseFlow(nn.Module):
    """Blocks of densely connected flow units, with half of the channels factored out between.

    Source: Grcic et al., "Densely connected normalizing flows" (NeurIPS 2021), with uniform
    dequantisation. Written from the formulas; the numbers are those of the public joint-training
    code (see :mod:`training.flow.sizes`).

    The likelihood is exact for an image together with its dequantisation noise and its cross-unit
    noise; averaged over both it bounds ln p(image) from below.

    Everything runs in the parameters' precision, whatever autocast is on around it. On a GPU
    convolutions in float32 would still round to TF32: the training entries switch that off for
    their process (``use_exact_float32``); elsewhere it is the caller's to do.

    Args:
        size: Units, layers, widths.
        name: Of the size, stored with the weights.
        checkpointing: Trades a second computation of each step for the memory of its inside.
    """

    def __init__(self, size: FlowSize, name: str = "custom", checkpointing: bool = False) -> None:
        super().__init__()
        if len(size.units) != len(size.layers) or not size.units or min(size.units) < 1:
            raise ParameterError(f"flow size {size}: one number of units and layers a block")
        self.size = size
        self.name = name
        self.blocks = nn.ModuleList()
        channels = 4 * 3
        for index, (units, layers) in enumerate(zip(size.units, size.layers, strict=True)):
            if index:
                # A squeeze makes four of each channel, half of which are factored out.
                channels *= 2
            block = FlowBlock(channels, units, layers, size, checkpointing)
            self.blocks.append(block)
            channels = block.out_channels
        self.base_mean = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.base_log_std = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.register_buffer("initialised", torch.tensor(False))

    @classmethod
    def by_name(cls, name: str, checkpointing: bool = False) -> DenseFlow:
        """Builds ``25-6``, ``45-6``, ``74-10``, ``small`` or ``tiny`` with random weights.

        Raises:
            ParameterError: There is no such size.
        """
        return cls(flow_size(name), name, checkpointing)

    @property
    def size_multiple(self) -> int:
        """Of height and width, in pixels."""
        return self.size.size_multiple

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The same as :meth:`log_prob`, for wrappers like DistributedDataParallel."""
        return self.log_prob(images, generator)

    def log_prob(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Estimates ln p of images from one draw of the noise; its mean is a lower bound.

        Args:
            images: (N, 3, H, W) RGB levels 0 to 255, uint8 or float.
            generator: Of the noise; None takes the default one of the device.

        Returns:
            (N,) nats, float32 (float64 if the parameters are).

        Raises:
            ImageError: Another shape, or height and width that are no multiples of
                ``size_multiple``.
        """
        self._check(images)
        with _full_precision(images.device):
            values = dequantise(images.to(self.base_mean.dtype), generator)
            noises = self.draw_noises(len(images), images.shape[-2:], generator)
            latents, log_det = self.encode(values, noises)
            *factored, top = latents
            log_p = log_det + self._log_base(top) + log_bin_volume(images)
            for latent in factored:
                log_p = log_p + log_standard_normal(latent)
            for noise in noises:
                log_p = log_p - log_standard_normal(noise)
        return log_p

    def bits_per_dim(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """``-log2 p / (3 H W)`` of each image: (N,), 8 for uniformly distributed levels."""
        return -self.log_prob(images, generator) / (images.shape[1:].numel() * math.log(2))

    def sample(
        self,
        count: int,
        size: tuple[int, int],
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws images; differentiable with respect to the parameters.

        Args:
            count: N.
            size: (height, width), multiples of ``size_multiple``.
            generator: Of the latents.

        Returns:
            (N, 3, height, width) RGB levels in [0, 255], in the parameters' dtype. Not rounded:
            rounding would stop every gradient.

        Raises:
            ImageError: A size that is no multiple of ``size_multiple``.
        """
        self._check_size(*size)
        like = self.base_mean
        with _full_precision(like.device):
            latents = [
                standard_normal((count, *shape), like, generator)
                for shape in self.latent_shapes(size)
            ]
            latents[-1] = self.base_mean + torch.exp(self.base_log_std) * latents[-1]
            return to_levels(self.decode(latents))

    def encode(self, values: Tensor, noises: list[Tensor]) -> Encoding:
        """Maps images and noise to latents, bijectively.

        Args:
            values: (N, 3, H, W) in [-0.5, 0.5).
            noises: As :meth:`draw_noises` gives them.
        """
        remaining = list(noises)
        latents: list[Tensor] = []
        x = squeeze(values)
        log_det = x.new_zeros(len(x))
        for index, block in enumerate(self.blocks):
            if index:
                x, factored = squeeze(x).chunk(2, 1)
                latents.append(factored)
            own = [remaining.pop(0) for _ in block.noises]
            x, change = block(x, own)
            log_det = log_det + change
        return Encoding([*latents, x], log_det)

    def decode(self, latents: list[Tensor]) -> Tensor:
        """Maps latents to values (N, 3, H, W), around [-0.5, 0.5); the noise is dropped."""
        *factored, x = latents
        for index, block in reversed(list(enumerate(self.blocks))):
            x = block.inverse(x)
            if index:
                x = unsqueeze(torch.cat([x, factored[index - 1]], 1))
        return unsqueeze(x)

    def latent_shapes(self, size: tuple[int, int]) -> list[tuple[int, int, int]]:
        """(C, H, W) of each latent of an image of (height, width)."""
        shapes = []
        for index, block in enumerate(self.blocks):
            scale = 2 ** (index + 1)
            channels = block.out_channels
            if index + 1 < len(self.blocks):
                channels, scale = 2 * channels, 2 * scale
            shapes.append((channels, size[0] // scale, size[1] // scale))
        return shapes

    def draw_noises(
        self, count: int, size: tuple[int, int], generator: torch.Generator | None = None
    ) -> list[Tensor]:
        """Standard normal noise for the cross-unit couplings of :meth:`encode`."""
        noises = []
        for index, block in enumerate(self.blocks):
            scale = 2 ** (index + 1)
            shape = (count, block.growth, size[0] // scale, size[1] // scale)
            noises += [standard_normal(shape, self.base_mean, generator) for _ in block.noises]
        return noises

    @torch.no_grad()
    def initialise(self, images: Tensor, generator: torch.Generator | None = None) -> float:
        """Sets every ActNorm from data, once; call before training from scratch.

        Args:
            images: (N, 3, H, W) levels 0 to 255; a training batch.
            generator: Of the noise.

        Returns:
            Mean bits per dimension of ``images`` afterwards.

        Raises:
            ImageError: See :meth:`log_prob`.
        """
        set_from_next_batch(self)
        bits = self.bits_per_dim(images, generator)
        self.initialised.fill_(True)
        return float(bits.mean())

    def _log_base(self, top: Tensor) -> Tensor:
        """(N,) log-density of the last latent: a normal with mean and deviation a channel."""
        standard = (top - self.base_mean) * torch.exp(-self.base_log_std)
        pixels = top.shape[2] * top.shape[3]
        return log_standard_normal(standard) - self.base_log_std.sum() * pixels

    def _check(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != 3:
            raise ImageError(f"the flow reads (N, 3, H, W), got {tuple(images.shape)}")
        self._check_size(*images.shape[-2:])

    def _check_size(self, height: int, width: int) -> None:
        multiple = self.size_multiple
        if min(height, width) < multiple or height % multiple or width % multiple:
            raise ImageError(
                f"the flow works on heights and widths that are multiples of {multiple}, "
                f"got {height}x{width}"
            )


def _full_precision(device: torch.device) -> contextlib.AbstractContextManager:
    """Half precision would spoil both the log-determinants and the inverse.

    TF32 is not this context's: the backward pass runs outside of it.
    """
    return torch.autocast(device.type, enabled=False)

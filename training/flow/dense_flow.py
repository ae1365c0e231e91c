# SPDX-License-Identifier: Apache-2.0
"""DenseFlow: a normalizing flow over images of any size, with likelihood and fast sampling."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from anomaly_seg_ros import drawing
from anomaly_seg_ros.checkpoints.fit import load_strictly
from anomaly_seg_ros.checkpoints.tensor_files import read_tensors
from anomaly_seg_ros.errors import CheckpointError, ImageError, ParameterError
from training.engine.storage import make_folder, write_atomically
from training.flow.dense_blocks import SIZES, FlowBlock, FlowSize, flow_size
from training.flow.invertible import set_from_next_batch, squeeze, unsqueeze

_LEVELS = 256
_NAME = "dense_flow"
_PROVENANCE = "provenance"
_SEED = 0


class Encoding(NamedTuple):
    """Latents of a batch of images.

    Attributes:
        latents: (N, C_i, H / 2^i, W / 2^i) tensors: the half factored out after each block, and
            the whole output of the last one.
        log_det: (N,) ln |det| of the map from (image, noise) to the latents.
    """

    latents: list[Tensor]
    log_det: Tensor


class DenseFlow(nn.Module):
    """Blocks of densely connected flow units; half of the channels is factored out after each.

    Source: Grcic et al., "Densely connected normalizing flows" (NeurIPS 2021), with uniform
    dequantisation. Written from the formulas; the sizes follow the public joint-training code
    (see :data:`~training.flow.dense_blocks.SIZES`).

    The likelihood is exact for an image together with its dequantisation noise and its cross-unit
    noise; averaged over both it bounds ln p(image) from below.

    Everything runs in the parameters' precision, regardless of any surrounding autocast. On a GPU
    float32 convolutions would still round to TF32. The training entries switch that off for their
    process (``use_exact_float32``); other callers have to do so themselves.

    Args:
        size: Units, layers, widths.
        name: Name of the size, stored with the weights.
        checkpointing: Saves memory by recomputing each step in the backward pass.
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
        """Height and width must be multiples of this, in pixels."""
        return self.size.size_multiple

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Same as :meth:`log_prob`, for wrappers such as DistributedDataParallel."""
        return self.log_prob(images, generator)

    def log_prob(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Estimates ln p of images from one draw of the noise; the mean is a lower bound.

        Args:
            images: (N, 3, H, W) RGB levels 0 to 255, uint8 or float.
            generator: Random generator for the noise; None uses the default one of the device.

        Returns:
            (N,) nats, float32 (float64 if the parameters are).

        Raises:
            ImageError: Another shape, or a height or width that is not a multiple of
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
            generator: Random generator for the latents.

        Returns:
            (N, 3, height, width) RGB levels in [0, 255], in the parameters' dtype. Not rounded:
            rounding would stop every gradient.

        Raises:
            ImageError: The size is not a multiple of ``size_multiple``.
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
            noises: Tensors from :meth:`draw_noises`.
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
        """Maps latents to values (N, 3, H, W), roughly in [-0.5, 0.5); the noise is dropped."""
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
        """Initialises every ActNorm from data; call once before training from scratch.

        Args:
            images: (N, 3, H, W) levels 0 to 255, from the training data.
            generator: Random generator for the noise.

        Returns:
            Mean bits per dimension of ``images`` after initialisation.

        Raises:
            ImageError: See :meth:`log_prob`.
        """
        set_from_next_batch(self)
        bits = self.bits_per_dim(images, generator)
        self.initialised.fill_(True)
        return float(bits.mean())

    def _log_base(self, top: Tensor) -> Tensor:
        """(N,) log-density of the last latent: normal with a mean and deviation per channel."""
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
    """Disables autocast: half precision would ruin both the log-determinants and the inverse.

    It cannot disable TF32, because the backward pass runs outside of this context.
    """
    return torch.autocast(device.type, enabled=False)


def dequantise(levels: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """``(x + u) / 256 - 0.5`` with u uniform in [0, 1).

    Args:
        levels: (N, 3, H, W) float, 0 to 255.
        generator: Random generator for u.

    Returns:
        Values in [-0.5, 0.5), same shape.
    """
    return (levels + uniform(levels.shape, levels, generator)) / _LEVELS - 0.5


def log_bin_volume(images: Tensor) -> float:
    """Log volume of one image's bin, which turns a density over values into ln p(levels)."""
    return -images.shape[1:].numel() * math.log(_LEVELS)


def to_levels(values: Tensor) -> Tensor:
    """Converts values to levels, without rounding.

    ``floor(256 (v + 0.5))`` is the exact inverse of :func:`dequantise`, but its gradient is zero
    everywhere. Subtracting half a bin in place of the floor is correct on average and
    differentiable. Values outside the range of an image are clamped.

    Returns:
        Levels in [0, 255], same shape and dtype.
    """
    return ((values + 0.5) * _LEVELS - 0.5).clamp(0, _LEVELS - 1)


def standard_normal(
    shape: Sequence[int], like: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Draws N(0, 1) on the generator's device; returns it on ``like``'s device, in its dtype."""
    device = like.device if generator is None else generator.device
    drawn = torch.randn(tuple(shape), generator=generator, device=device, dtype=like.dtype)
    return drawn.to(like.device)


def uniform(
    shape: Sequence[int], like: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Draws uniformly from [0, 1), as :func:`standard_normal` does."""
    device = like.device if generator is None else generator.device
    drawn = torch.rand(tuple(shape), generator=generator, device=device, dtype=like.dtype)
    return drawn.to(like.device)


def log_standard_normal(x: Tensor) -> Tensor:
    """Log-density of each item under N(0, I): (N, ...) to (N,) nats."""
    flat = x.flatten(1)
    return -0.5 * (flat.square().sum(1) + flat.shape[1] * math.log(2 * math.pi))


def save_flow(path: Path, flow: DenseFlow, provenance: dict[str, Any]) -> None:
    """Writes weights atomically; creates the folder if it is missing.

    Args:
        path: File to write, ``*.safetensors``; its header names the flow's size.
        flow: Flow built by :meth:`DenseFlow.by_name`.
        provenance: Plain values that describe data, settings and figures.

    Raises:
        OutputError: It cannot be written.
    """
    make_folder(path.parent)
    tensors = {k: v.detach().cpu().contiguous() for k, v in flow.state_dict().items()}
    content = save(tensors, {_NAME: flow.name, _PROVENANCE: json.dumps(provenance)})
    write_atomically(path, lambda file: file.write(content), len(content))


def load_flow(path: Path, checkpointing: bool = False) -> DenseFlow:
    """Loads a flow written by :func:`save_flow`.

    Args:
        path: File to read.
        checkpointing: See :class:`DenseFlow`.

    Raises:
        CheckpointError: The file is missing, damaged, not a flow, or does not fit its size.
    """
    tensors, header = read_tensors(path)
    if header.get(_NAME) not in SIZES:
        raise CheckpointError(
            f"{path}: no flow of a known size ({_NAME} is {header.get(_NAME)!r} in its header, "
            f"known are {', '.join(SIZES)})"
        )
    flow = DenseFlow.by_name(header[_NAME], checkpointing)
    load_strictly(flow, tensors, str(path))
    return flow


@torch.no_grad()
def sample_sheet(
    flow: DenseFlow, sizes: list[tuple[int, int]], columns: int = 6, cell_width: int = 160
) -> np.ndarray:
    """Draws samples of several sizes, one row each, from the same latents at every call.

    Args:
        flow: The flow to sample from.
        sizes: (height, width) of each row.
        columns: Samples per row.
        cell_width: Width that each sample is scaled to, in pixels.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    rows = []
    for size in sizes:
        generator = torch.Generator().manual_seed(_SEED)
        rows.append([to_picture(x) for x in flow.sample(columns, size, generator)])
    return drawing.grid(rows, cell_width=cell_width)


def to_picture(image: Tensor) -> np.ndarray:
    """Converts (3, H, W) levels in [0, 255] to (H, W, 3) uint8."""
    return np.ascontiguousarray(image.round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())

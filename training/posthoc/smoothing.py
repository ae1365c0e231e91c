"""What the smoothed scores share: logits at the size of the input, and the Gaussian."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn


def full_size_logits(network: nn.Module, inputs: Tensor) -> Tensor:
    """Runs a network and upsamples its logits (bilinear, with the network's ``align_corners``).

    Args:
        network: In eval mode.
        inputs: (N, 3, H, W), normalised.

    Returns:
        (N, K, H, W) float32.
    """
    logits = network(inputs).logits.float()
    if logits.shape[-2:] == inputs.shape[-2:]:
        return logits
    corners = getattr(network, "align_corners", False)
    return F.interpolate(logits, size=inputs.shape[-2:], mode="bilinear", align_corners=corners)


def gaussian_smooth(
    score: Tensor,
    size: int = 7,
    sigma: float = 1.0,
    dilation: int = 1,
    padding: str = "replicate",
) -> Tensor:
    """Convolves with a normalised Gaussian.

    Args:
        score: (N, h, w) float.
        size: Taps in each direction, odd.
        sigma: Standard deviation in taps.
        dilation: Distance of the taps in pixels.
        padding: ``replicate`` or ``reflect``; the latter needs maps larger than the padding.

    Returns:
        (N, h, w), differentiable.
    """
    offsets = [i - size // 2 for i in range(size)]
    taps = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in offsets]
    reach = dilation * (size // 2)
    height, width = score.shape[-2:]
    padded = F.pad(score[:, None], (reach,) * 4, mode=padding)[:, 0]
    # Shifted sums, not a convolution: on a GPU that would round to TF32.
    along_rows = sum(
        tap / sum(taps) * padded[:, :, dilation * i :][:, :, :width] for i, tap in enumerate(taps)
    )
    return sum(
        tap / sum(taps) * along_rows[:, dilation * i :][:, :height] for i, tap in enumerate(taps)
    )

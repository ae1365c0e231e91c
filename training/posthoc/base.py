# SPDX-License-Identifier: Apache-2.0
"""What post-hoc scores share: signature, a score of the logits by name, grids, a Gaussian."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.scores import SCORES


class PosthocScore(Protocol):
    """A score that needs more than one pass's outputs; higher = more anomalous."""

    def __call__(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Scores a batch.

        Args:
            network: In eval mode, as it is again afterwards; see
                :class:`~anomaly_seg_ros.contract.SegmentationNetwork`.
            inputs: (N, 3, H, W), normalised as the network expects, on its device.

        Returns:
            (N, h, w) float32; each score says on which grid.
        """
        ...


class OutputScore:
    """Base of the scores that are fitted beforehand and then read one pass's outputs."""

    def of(self, output: NetworkOutput) -> Tensor:
        """Scores (N, h, w) float32, on the grid of the logits."""
        raise NotImplementedError

    @torch.inference_mode()
    def __call__(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Returns (N, h, w) float32 on the logits' grid."""
        return self.of(network(inputs))


def on_logits_grid(values: Tensor, output: NetworkOutput) -> Tensor:
    """Brings (N, h', w') values of the pre-logits to the (h, w) grid of the logits.

    Bilinear between pixel centres, whatever the network's ``align_corners``: that is about what
    follows the logits, and a classifier that upsamples is a transposed convolution.
    """
    size = output.logits.shape[-2:]
    if values.shape[-2:] == size:
        return values
    return F.interpolate(values[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def logit_score(name: str) -> Callable[[Tensor], Tensor]:
    """The function of a score that reads the logits alone.

    Raises:
        ParameterError: There is no such score; names the option ``score``.
    """
    known = {key: score.formula for key, score in SCORES.items() if score.needs_logits_only}
    if name not in known:
        raise ParameterError(f"option 'score' is {name!r}, expected one of {', '.join(known)}")
    return known[name]


def full_size_logits(network: nn.Module, inputs: Tensor) -> Tensor:
    """Runs a network and upsamples its logits (bilinear, with the network's ``align_corners``).

    Args:
        network: A network in eval mode.
        inputs: (N, 3, H, W), normalised.

    Returns:
        (N, K, H, W) float32.
    """
    logits = network(inputs).logits.float()
    if logits.shape[-2:] == inputs.shape[-2:]:
        return logits
    corners = network.align_corners
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

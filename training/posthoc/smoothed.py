# SPDX-License-Identifier: Apache-2.0
"""A logit score with Gaussian smoothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anomaly_seg_ros.errors import ParameterError
from training.posthoc.base import full_size_logits, gaussian_smooth, logit_score


class Smoothed:
    """A score of the upsampled logits, blurred on the grid of the input.

    The public code of PEBAL (ECCV 2022) scores with the blurred energy (7 taps, sigma 1, reflected
    at the border); its figures are not comparable with those of the plain energy.

    Args:
        score: Name of a score that reads the logits alone.
        size: Taps, odd.
        sigma: Standard deviation of the Gaussian, in pixels.

    Raises:
        ParameterError: An option out of range.
    """

    def __init__(self, score: str = "energy", size: int = 7, sigma: float = 1.0) -> None:
        self._score = logit_score(score)
        if size < 1 or size % 2 == 0 or sigma <= 0:
            raise ParameterError(f"options size {size}, sigma {sigma}: expected odd and positive")
        self.size = size
        self.sigma = sigma

    @torch.inference_mode()
    def __call__(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Returns (N, H, W) float32."""
        logits = full_size_logits(network, inputs)
        score = self._score(logits)
        return gaussian_smooth(score, self.size, self.sigma, padding="reflect")

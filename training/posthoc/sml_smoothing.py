# SPDX-License-Identifier: Apache-2.0
"""Standardized max logits with boundary suppression and dilated smoothing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.scores import ClassStatistics, standardized_max_logit
from training.posthoc.base import full_size_logits, gaussian_smooth


class SmoothedSml:
    """The complete score of the paper, on the grid of the input.

    Width, kernel and dilation are pixels of the network's input, so the logits are upsampled
    (bilinear) before they are scored, as in the public code.

    Source: Jung et al., "Standardized Max Logits" (ICCV 2021); structuring elements and
    constants of their public code.

    Args:
        statistics: The maximum logit by predicted class, on in-distribution images.
        boundary_width: Reach of the suppression; 0 leaves it out.
        boundary_iterations: Must divide the width.
        kernel_size: Taps of the Gaussian, odd; 0 leaves the smoothing out.
        sigma: Standard deviation of the Gaussian, in taps.
        dilation: Distance of the taps.

    Raises:
        ParameterError: An option out of range.
    """

    def __init__(
        self,
        statistics: ClassStatistics,
        boundary_width: int = 4,
        boundary_iterations: int = 4,
        kernel_size: int = 7,
        sigma: float = 1.0,
        dilation: int = 6,
    ) -> None:
        if boundary_width < 0 or boundary_iterations < 1 or boundary_width % boundary_iterations:
            raise ParameterError(
                f"option 'boundary_width' is {boundary_width}, expected a multiple of "
                f"'boundary_iterations' = {boundary_iterations}"
            )
        if kernel_size and (kernel_size < 0 or kernel_size % 2 == 0):
            raise ParameterError(f"option 'kernel_size' is {kernel_size}, expected 0 or odd")
        self.statistics = statistics
        self.boundary_width = boundary_width
        self.boundary_iterations = boundary_iterations
        self.kernel_size = kernel_size
        self.sigma = sigma
        self.dilation = dilation

    @torch.inference_mode()
    def __call__(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Returns (N, H, W) float32."""
        logits = full_size_logits(network, inputs)
        score = standardized_max_logit(logits, self.statistics)
        if self.boundary_width:
            labels = logits.argmax(1)
            score = suppress_boundaries(
                score, labels, self.boundary_width, self.boundary_iterations
            )
        if self.kernel_size:
            score = gaussian_smooth(score, self.kernel_size, self.sigma, self.dilation)
        return score


def suppress_boundaries(
    score: Tensor, labels: Tensor, width: int = 4, iterations: int = 4
) -> Tensor:
    """Replaces the scores along class boundaries by those beside them.

    A band around the boundaries shrinks from ``width - 1`` to 0 in equal steps. In each step,
    every pixel of the band takes the mean of the pixels in its 3x3 neighbourhood that lie outside
    of the band, if there are any: the scores grow inwards from both sides.

    Args:
        score: (N, h, w) float.
        labels: (N, h, w) predicted classes.
        width: Width of the band, in pixels on each side.
        iterations: Steps; must divide ``width``.

    Returns:
        (N, h, w) float.
    """
    boundary = find_boundaries(labels)
    step = width // iterations
    for i in range(iterations):
        last = i == iterations - 1
        band = expand(boundary, 0 if last else width - step * i - 1)
        outside = F.pad((~band).to(score.dtype)[:, None], (1, 1, 1, 1), mode="replicate")
        values = F.pad(score.masked_fill(band, 0)[:, None], (1, 1, 1, 1), mode="replicate")
        # avg_pool2d divides both by 9.
        count = F.avg_pool2d(outside, 3, 1)[:, 0]
        total = F.avg_pool2d(values, 3, 1)[:, 0]
        score = torch.where(band & (count > 0), total / count, score)
    return score


def find_boundaries(labels: Tensor) -> Tensor:
    """Pixels where the labels change, on both sides.

    As in the public code: the largest label among a pixel and its four neighbours differs from the
    smallest among its eight.

    Args:
        labels: (N, h, w) integers.

    Returns:
        (N, h, w) bool.
    """
    values = labels.to(torch.float32)[:, None]
    rows = F.max_pool2d(values, (3, 1), 1, (1, 0))
    columns = F.max_pool2d(values, (1, 3), 1, (0, 1))
    smallest = -F.max_pool2d(-values, 3, 1, 1)
    return (torch.maximum(rows, columns) != smallest)[:, 0]


def expand(mask: Tensor, radius: int) -> Tensor:
    """Dilates a (N, h, w) bool mask by ``radius`` steps to the four neighbours."""
    values = mask.to(torch.float32)[:, None]
    for _ in range(radius):
        rows = F.max_pool2d(values, (3, 1), 1, (1, 0))
        columns = F.max_pool2d(values, (1, 3), 1, (0, 1))
        values = torch.maximum(rows, columns)
    return values[:, 0] > 0

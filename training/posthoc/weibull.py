# SPDX-License-Identifier: Apache-2.0
"""Maximum-likelihood fit of the Weibull distribution."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_SHAPES = (1e-3, 1e6)


def fit_weibull(values: Tensor) -> tuple[Tensor, Tensor]:
    r"""Shape k and scale of the distribution :math:`1 - \exp(-(x / \lambda)^k)`.

    k is the root of :math:`\sum x^k \ln x / \sum x^k - 1 / k - \overline{\ln x}`, which increases
    with k, so bisection finds it; :math:`\lambda^k = \overline{x^k}`.

    Args:
        values: (m, n) positive float64, a sample in each row. Where all of a row are the same, k
            is the upper bound of the search, 1e6.

    Returns:
        (m,) shapes and (m,) scales.
    """
    logs = values.log()
    low, high = (torch.full((len(values),), math.log(x), dtype=values.dtype) for x in _SHAPES)
    for _ in range(80):
        middle = (low + high) / 2
        shape = middle.exp()
        weights = (shape[:, None] * logs).softmax(1)
        rising = (weights * logs).sum(1) - 1 / shape - logs.mean(1) > 0
        low, high = torch.where(rising, low, middle), torch.where(rising, middle, high)
    shape = ((low + high) / 2).exp()
    power = (shape[:, None] * logs).logsumexp(1) - math.log(values.shape[1])
    return shape, (power / shape).exp()

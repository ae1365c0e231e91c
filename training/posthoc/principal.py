# SPDX-License-Identifier: Apache-2.0
"""Principal directions of a sample of features."""

from __future__ import annotations

import torch
from torch import Tensor

from anomaly_seg_ros.errors import ParameterError

# Below this share of the largest eigenvalue a direction is rounding: channels that never fire.
_NO_VARIANCE = 1e-10


def principal_axes(features: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of the second moments about the origin.

    Args:
        features: (n, C) float64, moved to the origin that is meant.

    Returns:
        (C,) eigenvalues, the largest first, and (C, C), an eigenvector in each column.
    """
    values, vectors = torch.linalg.eigh(features.T @ features / len(features))
    return values.flip(0).clamp(min=0), vectors.flip(1)


def axes_for(values: Tensor, variance: float) -> int:
    """The smallest number of principal axes that hold a share of the variance.

    Args:
        values: See :func:`principal_axes`.
        variance: In (0, 1]; 1 takes every axis with any variance.

    Raises:
        ParameterError: ``variance`` is out of range, or the features are all the same.
    """
    if not 0 < variance <= 1:
        raise ParameterError(f"option 'variance' is {variance}, expected 0 < v <= 1")
    varying = int((values > _NO_VARIANCE * values[0]).sum())
    if not varying:
        raise ParameterError("the pre-logits of all training pixels are the same")
    below = values.cumsum(0) < variance * values.sum()
    return min(int(below.sum()) + 1, varying)

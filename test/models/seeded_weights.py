# SPDX-License-Identifier: Apache-2.0
"""Weights and images that are the same on every machine and with every version of torch.

The facts under ``facts/`` hold what the public codes compute with these weights, so nothing here
may change without computing the facts again.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def seeded_state_dict(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Random values for every tensor of a network, BatchNorm statistics included.

    A tensor depends on its own key and shape alone, so networks that share a layer's name share
    its values. The scales keep activations near 1 through a hundred layers whose BatchNorm does
    not normalise, because its statistics are random too.
    """
    return {key: _tensor(key, tuple(shape)) for key, shape in shapes.items()}


def seeded_image(height: int, width: int, key: str = "image") -> Tensor:
    """(1, 3, height, width) float32, uniform with zero mean and unit variance."""
    return _uniform(key, (1, 3, height, width), -math.sqrt(3), math.sqrt(3))


def seeded_positions(count: int, height: int, width: int) -> list[tuple[int, int]]:
    """Distinct rows and columns of a grid, in row-major order."""
    order = np.argsort(_uniform("positions", (height * width,), 0, 1).numpy(), kind="stable")
    return [divmod(int(index), width) for index in sorted(order[:count])]


def _tensor(key: str, shape: tuple[int, ...]) -> Tensor:
    if key.endswith("num_batches_tracked"):
        return torch.tensor(zlib.crc32(key.encode()) % 100_000)
    if key.endswith("running_var"):
        return _uniform(key, shape, 0.5, 1.5)
    if len(shape) == 4:
        bound = math.sqrt(3 / math.prod(shape[1:]))
        return _uniform(key, shape, -bound, bound)
    if key.endswith("weight"):
        return _uniform(key, shape, 0.5, 1.5)
    return _uniform(key, shape, -0.3, 0.3)


def _uniform(key: str, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    # The bits of PCG64 are promised to stay; so is 24 bits -> float32, written out here.
    bits = np.random.PCG64(zlib.crc32(key.encode())).random_raw(math.prod(shape))
    unit = (bits >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
    return torch.from_numpy((low + (high - low) * unit).astype(np.float32).reshape(shape))

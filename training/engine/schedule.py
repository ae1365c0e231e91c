# SPDX-License-Identifier: Apache-2.0
"""What the configuration says about the length of a run, its learning rates and its optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from anomaly_seg_ros.errors import ParameterError
from training.engine.config import chosen

# By name: maps (share of the run that is over, poly_power) to the share of the way from the final
# to the peak learning rate, 1 at the start.
SCHEDULES: dict[str, Callable[[float, float], float]] = {
    # Chen et al., "DeepLab" (TPAMI 2018), section 4.1.
    "poly": lambda progress, power: (1 - progress) ** power,
    # Loshchilov & Hutter, "SGDR" (ICLR 2017), equation 5, without restarts.
    "cosine": lambda progress, _: (1 + math.cos(math.pi * progress)) / 2,
    "constant": lambda *_: 1.0,
}
OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}


def build_optimizer(
    groups: Iterable[dict[str, Any]], config: Mapping[str, Any]
) -> torch.optim.Optimizer:
    """Builds the optimizer that ``optimizer`` and ``betas`` name.

    Args:
        groups: Parameter groups with their peak ``lr`` and their ``weight_decay``: decoupled from
            the gradient for ``adamw`` (Loshchilov & Hutter, ICLR 2019), added to it for ``adam``.
        config: Configuration of the run.

    Raises:
        ParameterError: Unknown optimizer, or betas outside of [0, 1).
    """
    optimizer = chosen(OPTIMIZERS, "optimizer", config["optimizer"])
    first, second = config["betas"]
    if not (0 <= first < 1 and 0 <= second < 1):
        raise ParameterError(f"betas {config['betas']}: expected two numbers from 0 to below 1")
    return optimizer(groups, betas=(first, second))


def steps_of(config: Mapping[str, Any], frames: int) -> int:
    """Number of optimizer steps: ``steps``, or what ``epochs`` comes to if that is not 0.

    Args:
        config: Configuration of the run.
        frames: Number of training frames. An epoch is as many views as there are frames.

    Returns:
        ``ceil(epochs * frames / batch_size)``, at least 1.

    Raises:
        ParameterError: ``epochs`` is negative or not finite.
    """
    epochs = config["epochs"]
    if not 0 <= epochs < math.inf:  # written so that NaN is refused
        raise ParameterError(f"epochs {epochs:g}: expected a number from 0 on, 0 to use steps")
    if epochs == 0:
        return config["steps"]
    return max(1, math.ceil(epochs * frames / config["batch_size"]))

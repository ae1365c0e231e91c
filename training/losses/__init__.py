# SPDX-License-Identifier: Apache-2.0
"""Losses for open-set fine-tuning, by name.

A loss maps (:class:`~anomaly_seg_ros.contract.NetworkOutput`, labels, outlier mask) to
:class:`LossTerms`. All losses are evaluated in float32 (float64 for float64 logits) outside of
autocast, are a differentiable 0 for an empty set of pixels, and are correct under
DistributedDataParallel if processes have different numbers of pixels.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from anomaly_seg_ros.errors import ParameterError
from training.losses.base import LossTerms, OpenSetLoss
from training.losses.cross_entropy import ClosedSetCrossEntropy
from training.losses.dense_hybrid import DenseHybridLoss
from training.losses.energy_margin import EnergyMargin
from training.losses.hybrid_ovr import HybridOneVsRest
from training.losses.k_plus_1 import KPlusOne
from training.losses.logit_penalties import FreeEnergyMaximisation, TopKOneVsRest, UniformTarget
from training.losses.meta_ood import MetaOod
from training.losses.outlier_head import OutlierHeadLoss
from training.losses.pebal import Pebal

__all__ = ["LOSSES", "LossTerms", "OpenSetLoss", "build_loss", "loss_options"]

LOSSES: dict[str, type[OpenSetLoss]] = {
    "cross_entropy": ClosedSetCrossEntropy,
    "dense_hybrid": DenseHybridLoss,
    "energy_margin": EnergyMargin,
    "free_energy": FreeEnergyMaximisation,
    "hybrid_ovr": HybridOneVsRest,
    "k_plus_1": KPlusOne,
    "meta_ood": MetaOod,
    "outlier_head": OutlierHeadLoss,
    "pebal": Pebal,
    "top_k_ovr": TopKOneVsRest,
    "uniform": UniformTarget,
}


def build_loss(name: str, options: Mapping[str, Any] | None = None) -> OpenSetLoss:
    """Builds a loss by name.

    Args:
        name: Key of :data:`LOSSES`.
        options: Constructor arguments, see the class.

    Raises:
        ParameterError: The name or an option is unknown, or a value is out of range.
    """
    if name not in LOSSES:
        raise ParameterError(f"unknown loss {name!r}, expected one of {', '.join(LOSSES)}")
    options = dict(options or {})
    known = loss_options(name)
    for key in options:
        if key not in known:
            raise ParameterError(f"loss {name!r} has no option {key!r}; it has {', '.join(known)}")
    try:
        return LOSSES[name](**options)
    except ParameterError as error:
        raise ParameterError(f"loss {name!r}: {error}") from error


def loss_options(name: str) -> dict[str, Any]:
    """Returns the options of a loss with their defaults, its own first."""
    options: dict[str, Any] = {}
    for cls in LOSSES[name].__mro__:
        if not issubclass(cls, OpenSetLoss) or "__init__" not in vars(cls):
            continue
        for parameter in list(inspect.signature(cls.__init__).parameters.values())[1:]:
            if parameter.kind is not parameter.VAR_KEYWORD:
                options.setdefault(parameter.name, parameter.default)
    return options

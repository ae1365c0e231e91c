# SPDX-License-Identifier: Apache-2.0
"""Post-hoc scores by name: no training, but more than a function of one pass's outputs.

These are offline baselines; the node has the scores of :mod:`anomaly_seg_ros.scores`. All are
called as ``score(network, inputs)``; see :class:`~training.posthoc.base.PosthocScore`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from anomaly_seg_ros.errors import ParameterError
from training.posthoc.base import OutputScore, PosthocScore
from training.posthoc.gaussians import gdm, gmm
from training.posthoc.mc_dropout import McDropout
from training.posthoc.neco import Neco
from training.posthoc.odin import Odin
from training.posthoc.openmax import OpenMax
from training.posthoc.react import React, activation_percentile
from training.posthoc.sml_smoothing import SmoothedSml
from training.posthoc.smoothed import Smoothed
from training.posthoc.training_pixels import TrainingPixels, sample_pixels
from training.posthoc.vim import Vim, classifier_origin

__all__ = [
    "POSTHOC",
    "OutputScore",
    "PosthocScore",
    "TrainingPixels",
    "activation_percentile",
    "build_posthoc",
    "classifier_origin",
    "sample_pixels",
]

POSTHOC: dict[str, Callable[..., PosthocScore]] = {
    "gdm": gdm,
    "gmm": gmm,
    "mc_dropout": McDropout,
    "neco": Neco,
    "odin": Odin,
    "openmax": OpenMax,
    "react": React,
    "smoothed": Smoothed,
    "sml_smoothed": SmoothedSml,
    "vim": Vim,
}


def build_posthoc(name: str, **options: Any) -> PosthocScore:
    """Makes a post-hoc score.

    Args:
        name: Key of :data:`POSTHOC`.
        **options: Constructor arguments; ``react`` needs ``threshold``, ``sml_smoothed`` needs
            ``statistics``, and ``gdm``, ``gmm``, ``neco``, ``openmax`` and ``vim`` need
            ``pixels``, see :func:`~training.posthoc.training_pixels.sample_pixels`.

    Raises:
        ParameterError: Unknown name or option, a missing one, or a value out of range.
    """
    if name not in POSTHOC:
        raise ParameterError(
            f"unknown post-hoc score {name!r}, expected one of {', '.join(POSTHOC)}"
        )
    signature = inspect.signature(POSTHOC[name])
    try:
        signature.bind(**options)
    except TypeError as error:
        raise ParameterError(
            f"post-hoc score {name!r}: {error}; its options are {', '.join(signature.parameters)}"
        ) from error
    try:
        return POSTHOC[name](**options)
    except ParameterError as error:
        raise ParameterError(f"post-hoc score {name!r}: {error}") from error

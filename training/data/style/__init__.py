# SPDX-License-Identifier: Apache-2.0
"""Style alignment: an object takes on the look of the frame that it is pasted into.

Otherwise the network learns to recognise the other camera, by its white balance, contrast and
noise, instead of the unknown object.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from importlib import import_module
from operator import attrgetter
from typing import Any, Protocol

import numpy as np

from anomaly_seg_ros.errors import ParameterError

# Module and callable, imported on demand: only the learned style needs torch and weights.
_BUILDERS = {
    "lab_moments": ("training.data.style.lab", "LabMoments"),
    "lab_histogram": ("training.data.style.lab", "LabHistogram"),
    "fourier": ("training.data.style.fourier", "FourierAmplitude"),
    "learned": ("training.data.style.learned", "LearnedStyle.load"),
}
STYLES = ("none", *_BUILDERS)


class StyleAlignment(Protocol):
    """Makes an object look like an exemplar, as a pure function of its arguments."""

    def __call__(
        self,
        image: np.ndarray,
        mask: np.ndarray,
        exemplar: np.ndarray,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Aligns one object.

        Args:
            image: (h, w, 3) uint8 RGB crop of the object. The pixels around it are changed in the
                same way, because resampling at its edge mixes them in.
            mask: (h, w) bool, True on the object.
            exemplar: (H, W, 3) uint8 RGB, the target frame or the region around the object.
            rng: Source of all randomness.

        Returns:
            (h, w, 3) uint8 RGB, a new array.
        """
        ...


def build_style(name: str, options: Mapping[str, Any] | None = None) -> StyleAlignment | None:
    """Builds a style alignment by name.

    Args:
        name: One of ``STYLES``; "none" gives None.
        options: Arguments of its class, or of ``LearnedStyle.load`` for "learned".

    Raises:
        ParameterError: The name or an option is unknown.
        CheckpointError: The learned style's weights cannot be loaded.
    """
    if name not in STYLES:
        raise ParameterError(f"style: expected one of {', '.join(STYLES)}, got {name!r}")
    options = dict(options or {})
    if name == "none":
        if options:
            raise ParameterError(f"style 'none' has no option {next(iter(options))!r}")
        return None
    module, attribute = _BUILDERS[name]
    make = attrgetter(attribute)(import_module(module))
    try:
        inspect.signature(make).bind(**options)
    except TypeError as error:
        raise ParameterError(f"style {name!r}: {error}") from error
    return make(**options)


class RandomStyle:
    """Applies a uniformly drawn style to each object.

    Args:
        styles: Styles to draw from; None leaves the object unchanged.
    """

    def __init__(self, styles: Sequence[StyleAlignment | None]) -> None:
        self.styles = list(styles)

    def __call__(
        self,
        image: np.ndarray,
        mask: np.ndarray,
        exemplar: np.ndarray,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """See :class:`StyleAlignment`."""
        style = self.styles[int(rng.integers(len(self.styles)))]
        return image if style is None else style(image, mask, exemplar, rng)


Style = str | Mapping[str, Any]


def build_styles(styles: Style | Sequence[Style]) -> StyleAlignment | None:
    """Builds one style, or a random choice among several.

    Args:
        styles: One of ``STYLES``, or a mapping with its ``name`` and options, such as ``{name:
            lab_moments, strength: [0.5, 1]}``; or a list of these.

    Raises:
        ParameterError: A name or an option is unknown, or the list is empty.
    """
    chosen = [styles] if isinstance(styles, str | Mapping) else styles
    if not chosen:
        raise ParameterError("style: expected at least one name, 'none' for no alignment")
    built = []
    for style in chosen:
        options = {"name": style} if isinstance(style, str) else dict(style)
        built.append(build_style(options.pop("name", ""), options))
    return built[0] if len(built) == 1 else RandomStyle(built)


class Strength:
    """Strength of an alignment: fixed, or drawn from a range for each object.

    Args:
        value: 0 keeps the object, 1 adopts the exemplar's statistics; or a (lowest, highest) pair.

    Raises:
        ParameterError: It is not within 0 to 1, or not a range.
    """

    def __init__(self, value: float | Sequence[float]) -> None:
        bounds = tuple(value) if isinstance(value, Sequence) else (value, value)
        if len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1] <= 1:
            raise ParameterError(f"strength: expected 0 to 1 or a range of it, got {value}")
        self.low, self.high = bounds

    def draw(self, rng: np.random.Generator) -> float:
        """Draws a value; a fixed strength does not use the generator."""
        if self.low == self.high:
            return self.low
        return float(rng.uniform(self.low, self.high))

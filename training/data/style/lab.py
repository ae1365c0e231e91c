# SPDX-License-Identifier: Apache-2.0
"""Matching of colour statistics in CIE Lab.

Lightness and the two colour axes are nearly independent in Lab, so each is matched separately: by
mean and standard deviation (Reinhard et al. 2001, "Color Transfer between Images", who use the
space l-alpha-beta), or by the whole distribution (Gonzalez & Woods, "Histogram matching").

Statistics are taken from the masked pixels of the object and from all pixels of the exemplar,
sampled on a regular grid if there are many.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from anomaly_seg_ros.errors import ParameterError
from training.data.style import Strength

# Enough samples for moments and histograms of any frame.
_MAX_SAMPLES = 64 * 64
_BINS = 257  # odd, so that the middle of the range is the centre of a bin
# Steps of the look-up table over the object's values, finer than 8 bits.
_LEVELS = 4096


def to_lab(image: np.ndarray) -> np.ndarray:
    """Converts (h, w, 3) uint8 sRGB to (h, w, 3) float32 CIE Lab (D65), with L in [0, 100].

    OpenCV interpolates in tables; the result is within 0.4 of the exact values.
    """
    return cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def to_rgb(lab: np.ndarray) -> np.ndarray:
    """Converts (h, w, 3) float32 CIE Lab to uint8 sRGB; clips colours outside of sRGB."""
    lab = lab.astype(np.float32, copy=True)
    np.clip(lab[..., 0], 0, 100, out=lab[..., 0])
    rgb = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
    return np.rint(255 * np.clip(rgb, 0, 1)).astype(np.uint8)


class _LabMatching:
    """Base of both kinds of matching: sampling, contrast limits, blending.

    Args:
        strength: 0 keeps the object, 1 matches fully, values between blend in Lab; or a range.
        gain: Limits of the factor by which a channel's standard deviation changes. Otherwise, a
            plain stretch of road as exemplar would erase the object's texture, and a plain object
            would become amplified compression noise.

    Raises:
        ParameterError: A value is out of range.
    """

    def __init__(
        self, strength: float | Sequence[float] = 1.0, gain: Sequence[float] = (0.3, 3.0)
    ) -> None:
        if not 0 <= gain[0] <= 1 <= gain[1]:
            raise ParameterError(f"gain: expected a range around 1, got {gain[0]} to {gain[1]}")
        self.strength = Strength(strength)
        self.gain = gain

    def __call__(
        self,
        image: np.ndarray,
        mask: np.ndarray,
        exemplar: np.ndarray,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Aligns one object, see :class:`training.data.style.StyleAlignment`."""
        if not mask.any():
            return image.copy()
        lab = to_lab(image)
        own = lab.reshape(-1, 3)[_thin_out(np.flatnonzero(mask))]
        wanted = to_lab(_thin_out_grid(exemplar)).reshape(-1, 3)
        matched = np.empty_like(lab)
        for channel in range(3):
            matched[..., channel] = self._match(
                lab[..., channel], own[:, channel], wanted[:, channel]
            )
        lab += np.float32(self.strength.draw(rng)) * (matched - lab)
        return to_rgb(lab)

    def _match(self, values: np.ndarray, own: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class LabMoments(_LabMatching):
    """Matches mean and standard deviation of each Lab channel to the exemplar's."""

    def _match(self, values: np.ndarray, own: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        deviation = own.std(dtype=np.float64)
        factor = np.clip(wanted.std(dtype=np.float64) / max(deviation, 1e-6), *self.gain)
        shift = wanted.mean(dtype=np.float64) - factor * own.mean(dtype=np.float64)
        return np.float32(factor) * values + np.float32(shift)


class LabHistogram(_LabMatching):
    """Matches the distribution of each Lab channel to the exemplar's.

    A value is mapped to the exemplar's value of the same rank: y = F_exemplar^-1(F_object(x)),
    with both F piecewise linear over 257 bins. The gain limits apply to the standard deviation of
    the result.
    """

    def _match(self, values: np.ndarray, own: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        edges, ranks = _distribution(own)
        wanted_edges, wanted_ranks = _distribution(wanted)
        levels = np.linspace(edges[0], edges[-1], _LEVELS)
        table = np.interp(np.interp(levels, edges, ranks), wanted_ranks, wanted_edges)
        scale = (_LEVELS - 1) / (edges[-1] - edges[0])
        outcome = _look_up(own, table, edges[0], scale)
        factor = outcome.std() / max(own.std(dtype=np.float64), 1e-6)
        if factor > 0:
            table = outcome.mean() + (table - outcome.mean()) * (
                np.clip(factor, *self.gain) / factor
            )
        return _look_up(values, table, edges[0], scale)


def _look_up(values: np.ndarray, table: np.ndarray, low: float, scale: float) -> np.ndarray:
    """Looks up values in a table; values beyond its ends get the last entry."""
    # Rounds by truncation, as nothing is negative after clipping.
    places = np.clip((values - np.float32(low)) * np.float32(scale) + 0.5, 0, len(table) - 1)
    return table.astype(np.float32)[places.astype(np.uint16)]


def _distribution(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes bin edges and the share of values below each edge.

    The extreme values are at the centres of their bins, so equal values get the middle of their
    ranks. The only value of a flat image has the rank of the median.
    """
    low, high = float(values.min()), float(values.max())
    width = (high - low) / (_BINS - 1) or 1 / _BINS
    low -= width / 2 if high > low else 0.5
    # Ten times faster than numpy.histogram for a few thousand values.
    places = ((values - np.float32(low)) * np.float32(1 / width)).astype(np.intp)
    counts = np.bincount(np.clip(places, 0, _BINS - 1), minlength=_BINS)
    edges = low + width * np.arange(_BINS + 1)
    ranks = np.concatenate([[0], np.cumsum(counts)]) / values.size
    return edges, ranks


def _thin_out(places: np.ndarray) -> np.ndarray:
    """Keeps every k-th of (n,) positions, at most ``_MAX_SAMPLES``."""
    return places[:: -(-len(places) // _MAX_SAMPLES)]


def _thin_out_grid(image: np.ndarray) -> np.ndarray:
    """Keeps every k-th row and column, about ``_MAX_SAMPLES`` pixels."""
    step = max(1, int(np.ceil(np.sqrt(image.shape[0] * image.shape[1] / _MAX_SAMPLES))))
    return np.ascontiguousarray(image[::step, ::step])

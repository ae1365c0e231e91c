"""Colour statistics of the exemplar, in CIE Lab.

Lightness and the two colour axes are nearly independent there, so each is matched alone: its mean
and standard deviation (Reinhard et al. 2001, "Color Transfer between Images", there in the space
l-alpha-beta), or its whole distribution (Gonzalez & Woods, "Histogram matching").

Statistics come from the masked pixels of the object and from all pixels of the exemplar; large
ones are sampled on a regular grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from anomaly_seg_ros.errors import ParameterError
from training.data.style import Strength

# Enough for moments and histograms, whatever the size of the frame.
_MAX_SAMPLES = 64 * 64
_BINS = 257  # odd: a bin has the middle of the range as its own
# Steps of the look-up table between the ends of the object's values, finer than 8 bits show.
_LEVELS = 4096


def to_lab(image: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 sRGB to (h, w, 3) float32 CIE Lab (D65): L in [0, 100].

    OpenCV interpolates in tables: within 0.4 of the exact values.
    """
    return cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def to_rgb(lab: np.ndarray) -> np.ndarray:
    """(h, w, 3) float32 CIE Lab to uint8 sRGB; colours beyond sRGB are clipped."""
    lab = lab.astype(np.float32, copy=True)
    np.clip(lab[..., 0], 0, 100, out=lab[..., 0])
    rgb = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
    return np.rint(255 * np.clip(rgb, 0, 1)).astype(np.uint8)


class _LabMatching:
    """What both kinds share: sampling, limits of the contrast, blending.

    Args:
        strength: 0 keeps the object, 1 matches fully, between them a blend in Lab; or a range.
        gain: Smallest and largest factor that a channel's standard deviation may change by. A
            plain stretch of road as exemplar would else wipe the object's texture out, and a
            plain object would become amplified compression noise.

    Raises:
        ParameterError: A value out of range.
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
    """Mean and standard deviation of each Lab channel become the exemplar's."""

    def _match(self, values: np.ndarray, own: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        deviation = own.std(dtype=np.float64)
        factor = np.clip(wanted.std(dtype=np.float64) / max(deviation, 1e-6), *self.gain)
        shift = wanted.mean(dtype=np.float64) - factor * own.mean(dtype=np.float64)
        return np.float32(factor) * values + np.float32(shift)


class LabHistogram(_LabMatching):
    """The distribution of each Lab channel becomes the exemplar's.

    A value goes to the exemplar's value of the same rank: y = F_exemplar^-1(F_object(x)), with
    both F piecewise linear over 257 bins. The limits of the gain hold for the standard deviation
    of the outcome.
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
    """Table entries of the values; those beyond its ends take the last entry there."""
    # Rounds by truncation: clipped at 0 there is nothing negative.
    places = np.clip((values - np.float32(low)) * np.float32(scale) + 0.5, 0, len(table) - 1)
    return table.astype(np.float32)[places.astype(np.uint16)]


def _distribution(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bin edges and the share of the values below each edge.

    The extreme values lie in the middle of their bins. So equal values share the middle of their
    ranks; the only value of a flat picture has the rank of the median.
    """
    low, high = float(values.min()), float(values.max())
    width = (high - low) / (_BINS - 1) or 1 / _BINS
    low -= width / 2 if high > low else 0.5
    # numpy.histogram takes ten times as long for a few thousand values.
    places = ((values - np.float32(low)) * np.float32(1 / width)).astype(np.intp)
    counts = np.bincount(np.clip(places, 0, _BINS - 1), minlength=_BINS)
    edges = low + width * np.arange(_BINS + 1)
    ranks = np.concatenate([[0], np.cumsum(counts)]) / values.size
    return edges, ranks


def _thin_out(places: np.ndarray) -> np.ndarray:
    """Every k-th of (n,) places, so that at most ``_MAX_SAMPLES`` stay."""
    return places[:: -(-len(places) // _MAX_SAMPLES)]


def _thin_out_grid(image: np.ndarray) -> np.ndarray:
    """Every k-th row and column."""
    step = max(1, int(np.ceil(np.sqrt(image.shape[0] * image.shape[1] / _MAX_SAMPLES))))
    return np.ascontiguousarray(image[::step, ::step])

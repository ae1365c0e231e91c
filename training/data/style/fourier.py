# SPDX-License-Identifier: Apache-2.0
"""Fourier amplitude mixing: the exemplar's low-frequency amplitudes with the object's phase.

FDA (Yang & Soatto, CVPR 2020, eq. 1-3): the amplitude spectrum of an image carries its light,
colour and contrast, and the phase its structure. Within a centred window of the spectrum, the
amplitude becomes the exemplar's, or a mix of both as in Xu et al., CVPR 2021 (eq. 5).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from anomaly_seg_ros.errors import ParameterError
from training.data.style import Strength


class FourierAmplitude:
    """Moves the low-frequency amplitudes of each RGB channel to the exemplar's.

    Args:
        beta: Half the side of the window, as a share of the crop's shorter side (the paper's
            beta: 0.01 to 0.09 for whole frames). Below one frequency step, only the mean changes.
        strength: 0 keeps the object's amplitude, 1 adopts the exemplar's; or a range.

    Raises:
        ParameterError: A value is out of range.
    """

    def __init__(self, beta: float = 0.02, strength: float | Sequence[float] = 1.0) -> None:
        if not 0 <= beta < 0.5:
            raise ParameterError(f"beta: expected 0 to 0.5, got {beta}")
        self.beta = beta
        self.strength = Strength(strength)

    def __call__(
        self,
        image: np.ndarray,
        mask: np.ndarray,
        exemplar: np.ndarray,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Aligns one object, see :class:`training.data.style.StyleAlignment`.

        The object is transformed on a background of its own mean colour, so that its original
        scene does not leak in. The change is smooth and is added everywhere.
        """
        if not mask.any():
            return image.copy()
        height, width = mask.shape
        content = image.astype(np.float32)
        paste = mask.astype(np.uint8)
        filled = np.empty_like(content)
        filled[:] = cv2.mean(content, paste)[:3]
        cv2.copyTo(content, paste, filled)
        resized = _resize(exemplar, height, width)
        content += amplitude_change(
            filled, resized.astype(np.float32), self.beta, self.strength.draw(rng)
        )
        return np.rint(np.clip(content, 0, 255)).astype(np.uint8)


def _resize(exemplar: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes the exemplar to the crop's size, (height, width, 3) uint8."""
    # Area interpolation of a large frame would dominate the run time. Rows and columns beyond
    # twice the size are skipped; the aliasing is above the window's frequencies.
    steps = [max(1, n // (2 * m)) for n, m in zip(exemplar.shape, (height, width), strict=False)]
    exemplar = np.ascontiguousarray(exemplar[:: steps[0], :: steps[1]])
    shrinks = exemplar.shape[0] > height or exemplar.shape[1] > width
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(exemplar, (width, height), interpolation=method)


def amplitude_change(
    content: np.ndarray, exemplar: np.ndarray, beta: float, strength: float = 1.0
) -> np.ndarray:
    """Computes what mixing the low-frequency amplitudes adds to an image.

    Only the window's coefficients are computed, as two small matrix products. They are 0.6 % of
    the spectrum at beta 0.05, and unlike an FFT they are fast for sides with large prime factors.

    Args:
        content: (h, w, C) float32.
        exemplar: (h, w, C) float32.
        beta: See :class:`FourierAmplitude`; the window holds the frequencies k with
            abs(k) <= floor(beta min(h, w)) on both axes.
        strength: Weight of the exemplar's amplitude.

    Returns:
        (h, w, C) float32. A frequency that the content lacks has no phase and is left out.
    """
    height, width = content.shape[:2]
    reach = int(beta * min(height, width))
    # For real images, the coefficient at -k is the conjugate of that at k.
    down = _waves(height, np.arange(-reach, reach + 1))
    across = _waves(width, np.arange(reach + 1))
    own = _coefficients(content, down, across)
    amplitude = np.abs(own)
    change = strength * (np.abs(_coefficients(exemplar, down, across)) - amplitude)
    faint = 1e-4 * height * width  # waves of 1e-4 grey levels are rounding errors
    phase = np.divide(own, amplitude, out=np.zeros_like(own), where=amplitude > faint)
    # Every column except the first also represents its conjugate.
    pairs = np.full(reach + 1, 2 / (height * width), np.float32)
    pairs[0] /= 2
    rows = down.conj().T @ (change * phase * pairs)
    real = rows.real @ across.real + rows.imag @ across.imag
    return np.ascontiguousarray(real.transpose(1, 2, 0), np.float32)


def _waves(length: int, frequencies: np.ndarray) -> np.ndarray:
    """Computes exp(-2 pi i k x / length), (K, length) complex64."""
    turns = np.outer(frequencies, np.arange(length)) / length
    return np.exp(-2j * np.pi * turns).astype(np.complex64)


def _coefficients(image: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Computes (C, rows, columns) complex64 DFT coefficients of an (h, w, C) image."""
    channels = np.ascontiguousarray(image.transpose(2, 0, 1))
    # For a real image, two real products cost half of a complex one.
    columns = channels @ across.real.T + 1j * (channels @ across.imag.T)
    return down @ columns

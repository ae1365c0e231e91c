# SPDX-License-Identifier: Apache-2.0
"""Spectra after mixing, against NumPy's full FFT."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from anomaly_seg_ros.errors import ParameterError
from training.data.style.fourier import FourierAmplitude, amplitude_change

SIZES = [(32, 32), (31, 44), (45, 17), (67, 101)]


def picture(seed: int, size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 255, (*size, 3)).astype(np.float32)


def window(size: tuple[int, int], beta: float) -> np.ndarray:
    """(h, w) bool: the low frequencies of the full, not shifted, spectrum."""
    reach = int(beta * min(size))
    rows, columns = (np.abs(np.fft.fftfreq(n, 1 / n)) <= reach + 1e-9 for n in size)
    return rows[:, None] & columns[None, :]


def mixed_reference(
    content: np.ndarray, exemplar: np.ndarray, beta: float, strength: float
) -> np.ndarray:
    """Eq. 3 of the paper in float64 on the whole spectrum."""
    own = np.fft.fft2(content.astype(np.float64), axes=(0, 1))
    other = np.fft.fft2(exemplar.astype(np.float64), axes=(0, 1))
    low = window(content.shape[:2], beta)[..., None]
    amplitude = np.where(low, (1 - strength) * abs(own) + strength * abs(other), abs(own))
    mixed = np.fft.ifft2(amplitude * np.exp(1j * np.angle(own)), axes=(0, 1))
    assert np.abs(mixed.imag).max() < 1e-9
    return mixed.real


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("beta", [0.0, 0.05, 0.09, 0.49])
@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_against_the_full_transform(size: tuple[int, int], beta: float, strength: float) -> None:
    content, exemplar = picture(1, size), picture(2, size)
    got = content + amplitude_change(content, exemplar, beta, strength)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, mixed_reference(content, exemplar, beta, strength), atol=0.02)


@pytest.mark.parametrize("size", SIZES)
def test_low_amplitudes_are_the_exemplars_and_the_phase_stays(size: tuple[int, int]) -> None:
    content, exemplar = picture(1, size), picture(2, size)
    got = content + amplitude_change(content, exemplar, 0.1)
    spectra = [np.fft.fft2(x.astype(np.float64), axes=(0, 1)) for x in (content, exemplar, got)]
    own, other, mixed = spectra
    low = window(size, 0.1)
    scale = np.abs(other[low]).max()
    np.testing.assert_allclose(np.abs(mixed[low]), np.abs(other[low]), atol=1e-5 * scale)
    np.testing.assert_allclose(mixed[~low], own[~low], atol=1e-5 * scale)
    turned = np.angle(mixed * own.conj())  # 0 = the same phase
    np.testing.assert_allclose(turned, 0, atol=5e-3)


def test_an_object_takes_the_mean_colour_of_the_exemplar() -> None:
    rows, columns = np.indices((50, 40)) - 20
    mask = rows**2 + columns**2 < 300
    noise = ndimage.gaussian_filter(picture(1, (50, 40)), (1, 1, 0))
    image = np.where(mask[..., None], noise * 0.5 + 60, 255).astype(np.uint8)
    exemplar = np.full((30, 70, 3), (100, 80, 140), np.uint8)
    styled = FourierAmplitude(beta=0.01)(image, mask, exemplar, np.random.default_rng(0))
    np.testing.assert_allclose(styled[mask].mean(0), (100, 80, 140), atol=0.5)


def test_a_flat_object_stays_flat() -> None:
    image = np.full((40, 40, 3), 90, np.uint8)
    exemplar = picture(2, (40, 40)).astype(np.uint8)
    mask = np.ones((40, 40), bool)
    styled = FourierAmplitude()(image, mask, exemplar, np.random.default_rng(0))
    assert np.ptp(styled.reshape(-1, 3).astype(int), axis=0).max() <= 1
    np.testing.assert_allclose(styled.mean((0, 1)), exemplar.mean((0, 1)), atol=1)


def test_the_scene_around_the_object_does_not_leak_in() -> None:
    mask = np.zeros((48, 48), bool)
    mask[12:36, 12:36] = True
    image = (picture(1, (48, 48)) * 0.3 + 80).astype(np.uint8)
    bright = np.where(mask[..., None], image, 255).astype(np.uint8)
    exemplar = (picture(2, (48, 48)) * 0.3 + 80).astype(np.uint8)
    style = FourierAmplitude(beta=0.1)
    one, two = (style(x, mask, exemplar, np.random.default_rng(0)) for x in (image, bright))
    np.testing.assert_array_equal(one[mask], two[mask])


@pytest.mark.parametrize("beta", [-0.01, 0.5])
def test_beta_out_of_range(beta: float) -> None:
    with pytest.raises(ParameterError, match=r"beta: expected 0 to 0\.5"):
        FourierAmplitude(beta=beta)

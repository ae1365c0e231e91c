# SPDX-License-Identifier: Apache-2.0
"""Lab statistics after matching, against scikit-image and by their definition."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from anomaly_seg_ros.errors import ParameterError
from training.data.style import lab
from training.data.style.lab import LabHistogram, LabMoments, to_lab, to_rgb

RNG = np.random.default_rng(0)
WIDE = (0.0, 100.0)


def smooth(seed: int, size: tuple[int, int], middle: float, spread: float) -> np.ndarray:
    """A picture of smooth blobs whose colours stay away from 0 and 255."""
    noise = np.random.default_rng(seed).standard_normal((*size, 3))
    blobs = ndimage.gaussian_filter(noise, (2, 2, 0))
    return np.clip(middle + spread * blobs / blobs.std(), 40, 215).astype(np.uint8)


def disc(size: int) -> np.ndarray:
    rows, columns = np.indices((size, size)) - size / 2 + 0.5
    return rows**2 + columns**2 < (0.45 * size) ** 2


def srgb_to_lab_reference(rgb: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1 and CIE 15:2004 in float64, white point D65."""
    x = rgb / 255.0
    linear = np.where(x > 0.04045, ((x + 0.055) / 1.055) ** 2.4, x / 12.92)
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    t = linear @ to_xyz.T / np.array([0.95047, 1.0, 1.08883])
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack(
        [
            116 * f[..., 1] - 16,
            500 * (f[..., 0] - f[..., 1]),
            200 * (f[..., 1] - f[..., 2]),
        ],
        axis=-1,
    )


def test_lab_is_cie_lab_and_comes_back() -> None:
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    np.testing.assert_allclose(to_lab(colours), srgb_to_lab_reference(colours), atol=0.4)
    assert np.abs(to_rgb(to_lab(colours)).astype(int) - colours).max() <= 1


def test_lightness_out_of_range_is_clipped() -> None:
    assert (to_rgb(np.array([[[130.0, 0, 0]]])) == 255).all()
    assert (to_rgb(np.array([[[-20.0, 0, 0]]])) == 0).all()


@pytest.mark.parametrize("size", [24, 61])
def test_moments_become_the_exemplars(size: int) -> None:
    image, exemplar = smooth(1, (size, size), 150, 12), smooth(2, (50, 60), 110, 18)
    mask = disc(size)
    styled = LabMoments(gain=WIDE)(image, mask, exemplar, RNG)
    got, wanted = to_lab(styled)[mask], to_lab(exemplar).reshape(-1, 3)
    np.testing.assert_allclose(got.mean(0), wanted.mean(0), atol=0.2)
    np.testing.assert_allclose(got.std(0), wanted.std(0), rtol=0.02)


def test_large_images_are_sampled_well_enough() -> None:
    image, exemplar = smooth(1, (300, 300), 150, 12), smooth(2, (400, 600), 110, 18)
    assert image.size > 10 * lab._MAX_SAMPLES
    styled = LabMoments(gain=WIDE)(image, np.ones((300, 300), bool), exemplar, RNG)
    got, wanted = to_lab(styled).reshape(-1, 3), to_lab(exemplar).reshape(-1, 3)
    np.testing.assert_allclose(got.mean(0), wanted.mean(0), atol=0.5)
    np.testing.assert_allclose(got.std(0), wanted.std(0), rtol=0.05)


def test_strength_blends_in_lab() -> None:
    image, exemplar = smooth(1, (30, 30), 150, 12), smooth(2, (50, 60), 110, 12)
    mask = np.ones((30, 30), bool)
    half = LabMoments(strength=0.5, gain=WIDE)(image, mask, exemplar, RNG)
    middle = (to_lab(image).mean((0, 1)) + to_lab(exemplar).mean((0, 1))) / 2
    np.testing.assert_allclose(to_lab(half).mean((0, 1)), middle, atol=0.2)


@pytest.mark.parametrize("kind", [LabMoments, LabHistogram])
def test_contrast_changes_within_limits(kind: type) -> None:
    image, mask = smooth(1, (40, 40), 128, 25), np.ones((40, 40), bool)
    before = to_lab(image)[..., 0].std()
    plain = np.full((20, 20, 3), 128, np.uint8)
    plain[::2] += 1
    after = to_lab(kind(gain=(0.5, 2))(image, mask, plain, RNG))[..., 0].std()
    assert after == pytest.approx(0.5 * before, rel=0.03)
    lively = smooth(2, (40, 40), 128, 60)
    after = to_lab(kind(gain=(0.5, 1.5))(image, mask, lively, RNG))[..., 0].std()
    assert after == pytest.approx(1.5 * before, rel=0.03)


@pytest.mark.parametrize("kind", [LabMoments, LabHistogram])
@pytest.mark.parametrize("flat", ["object", "exemplar", "both"])
def test_flat_pictures(kind: type, flat: str) -> None:
    plain = np.full((20, 20, 3), (90, 120, 60), np.uint8)
    image = plain if flat != "exemplar" else smooth(1, (20, 20), 150, 12)
    exemplar = plain // 2 + 70 if flat != "object" else smooth(2, (20, 20), 110, 12)
    styled = kind()(image, np.ones((20, 20), bool), exemplar, RNG)
    got, wanted = to_lab(styled), to_lab(exemplar)
    if kind is LabMoments:
        np.testing.assert_allclose(got.mean((0, 1)), wanted.mean((0, 1)), atol=0.5)
    else:  # one value has the rank of the median
        np.testing.assert_allclose(np.median(got, (0, 1)), np.median(wanted, (0, 1)), atol=1.0)
    if flat != "exemplar":
        assert (styled == styled[0, 0]).all()


def test_histograms_against_scikit_image() -> None:
    exposure = pytest.importorskip("skimage.exposure")
    image, exemplar = smooth(1, (64, 64), 150, 12), smooth(2, (60, 64), 110, 18)
    styled = LabHistogram(gain=WIDE)(image, np.ones((64, 64), bool), exemplar, RNG)
    wanted = exposure.match_histograms(to_lab(image), to_lab(exemplar), channel_axis=2)
    # A bin of the piecewise linear distributions is about 0.3 wide.
    assert np.abs(to_lab(styled) - wanted).mean() < 0.3
    assert np.abs(to_lab(styled) - wanted).max() < 3


def test_quantiles_become_the_exemplars() -> None:
    image, exemplar = smooth(3, (64, 64), 128, 20), smooth(4, (64, 64), 128, 10)
    exemplar[:32] = exemplar[:32] // 2 + 30  # two humps: no match of moments reproduces them
    mask = disc(64)
    got = to_lab(LabHistogram(gain=WIDE)(image, mask, exemplar, RNG))[mask][:, 0]
    levels = np.linspace(0.05, 0.95, 18)  # not the median, which lies between the humps
    wanted = np.quantile(to_lab(exemplar)[..., 0], levels)
    np.testing.assert_allclose(np.quantile(got, levels), wanted, atol=0.6)
    moments = to_lab(LabMoments(gain=WIDE)(image, mask, exemplar, RNG))[mask][:, 0]
    assert np.abs(np.quantile(moments, levels) - wanted).max() > 2


def test_histogram_matching_keeps_the_order_of_lightness() -> None:
    image = np.repeat(np.arange(60, 190, dtype=np.uint8)[None, :, None], 3, 2)
    exemplar = smooth(2, (50, 60), 110, 18)
    styled = LabHistogram(gain=WIDE)(image, np.ones((1, 130), bool), exemplar, RNG)
    assert (np.diff(to_lab(styled)[0, :, 0]) > -1.0).all()


@pytest.mark.parametrize("gain", [(-0.1, 2), (1.1, 2), (0.5, 0.9)])
def test_gain_out_of_range(gain: tuple[float, float]) -> None:
    with pytest.raises(ParameterError, match="gain: expected a range around 1"):
        LabMoments(gain=gain)

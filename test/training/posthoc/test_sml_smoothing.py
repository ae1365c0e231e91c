# SPDX-License-Identifier: Apache-2.0
"""Boundary suppression and smoothing against SciPy and plain loops in float64."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.scores import ClassStatistics
from training.posthoc import build_posthoc
from training.posthoc.base import gaussian_smooth
from training.posthoc.sml_smoothing import expand, find_boundaries, suppress_boundaries

CROSS = ndimage.generate_binary_structure(2, 1)


def label_map() -> np.ndarray:
    """Regions with straight, slanted and diagonal borders."""
    labels = np.zeros((40, 50), np.int64)
    labels[:, 25:] = 3
    labels[25:, 10:35] = 1
    for i in range(15):
        labels[i, 30 + i :] = 7
    labels[5, 5] = 2
    return labels


def boundaries_by_hand(labels: np.ndarray) -> np.ndarray:
    largest = ndimage.grey_dilation(labels, footprint=CROSS, mode="nearest")
    smallest = ndimage.grey_erosion(labels, size=(3, 3), mode="nearest")
    return largest != smallest


def suppress_by_hand(score: np.ndarray, labels: np.ndarray) -> np.ndarray:
    boundary = boundaries_by_hand(labels)
    height, width = score.shape
    for radius in (3, 2, 1, 0):
        band = boundary
        if radius:
            band = ndimage.binary_dilation(boundary, CROSS, iterations=radius)
        new = score.copy()
        for i, j in np.argwhere(band):
            # Replicated borders: a neighbour beyond the edge is the edge pixel, counted again.
            rows = np.clip([i - 1, i, i + 1], 0, height - 1)
            columns = np.clip([j - 1, j, j + 1], 0, width - 1)
            near = [score[r, c] for r in rows for c in columns if not band[r, c]]
            if near:
                new[i, j] = np.mean(near)
        score = new
    return score


def test_boundaries_and_their_dilation() -> None:
    labels = label_map()
    expected = boundaries_by_hand(labels)
    actual = find_boundaries(torch.from_numpy(labels)[None])
    np.testing.assert_array_equal(actual[0].numpy(), expected)
    for radius in (0, 1, 3):
        grown = expand(actual, radius)[0].numpy()
        reference = expected
        if radius:
            reference = ndimage.binary_dilation(expected, CROSS, iterations=radius)
        np.testing.assert_array_equal(grown, reference)


def test_suppression() -> None:
    labels = label_map()
    score = np.random.default_rng(0).normal(size=labels.shape)
    actual = suppress_boundaries(torch.from_numpy(score)[None], torch.from_numpy(labels)[None])
    np.testing.assert_allclose(actual[0].numpy(), suppress_by_hand(score, labels), rtol=1e-12)


def test_suppression_takes_scores_from_both_sides() -> None:
    """A ridge along a boundary goes; the level on each side stays."""
    labels = torch.zeros(1, 20, 20, dtype=torch.int64)
    labels[:, :, 10:] = 4
    score = torch.where(labels == 0, -1.0, -3.0)
    ridged = score.clone()
    ridged[:, :, 9:11] = 50.0
    torch.testing.assert_close(suppress_boundaries(ridged, labels), score)


@pytest.mark.parametrize("dilation", [1, 6])
def test_smoothing_equals_scipy(dilation: int) -> None:
    score = np.random.default_rng(1).normal(size=(45, 60))
    offsets = np.arange(-3, 4)
    kernel = np.exp(-0.5 * (offsets[:, None] ** 2 + offsets**2))
    spread = np.zeros((6 * dilation + 1,) * 2)
    spread[::dilation, ::dilation] = kernel / kernel.sum()
    expected = ndimage.convolve(score, spread, mode="nearest")
    actual = gaussian_smooth(torch.from_numpy(score)[None], 7, 1.0, dilation)[0].numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)


def test_the_whole_score(deeplab: nn.Module) -> None:
    network = deeplab
    inputs = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    statistics = ClassStatistics(torch.linspace(-1, 1, 19), torch.linspace(0.5, 2, 19))
    actual = build_posthoc("sml_smoothed", statistics=statistics)(network, inputs)
    assert actual.shape == (1, 64, 96)
    assert actual.dtype == torch.float32
    with torch.no_grad():
        coarse = network(inputs).logits[0].double().numpy()
    logits = np.stack([cv2.resize(x, (96, 64), interpolation=cv2.INTER_LINEAR) for x in coarse])
    labels = logits.argmax(0)
    mean, std = statistics.mean.double().numpy(), statistics.std.double().numpy()
    score = suppress_by_hand((mean[labels] - logits.max(0)) / std[labels], labels)
    offsets = np.arange(-3, 4)
    spread = np.zeros((37, 37))
    spread[::6, ::6] = np.exp(-0.5 * (offsets[:, None] ** 2 + offsets**2))
    expected = ndimage.convolve(score, spread / spread.sum(), mode="nearest")
    assert len(np.unique(labels)) > 2
    # A pixel whose two best logits tie in float32 may take the other label.
    assert np.mean(np.abs(actual[0].numpy() - expected) > 1e-3) < 0.01


def test_parts_can_be_left_out(deeplab: nn.Module) -> None:
    network = deeplab
    inputs = torch.randn(1, 3, 64, 96)
    statistics = ClassStatistics(torch.zeros(19), torch.ones(19))
    options = {"statistics": statistics, "boundary_width": 0, "kernel_size": 0}
    plain = build_posthoc("sml_smoothed", **options)(network, inputs)
    with torch.no_grad():
        logits = torch.nn.functional.interpolate(
            network(inputs).logits, size=(64, 96), mode="bilinear"
        )
    torch.testing.assert_close(plain, -logits.amax(1))


@pytest.mark.parametrize(
    ("options", "needle"),
    [({"boundary_width": 5}, "multiple"), ({"kernel_size": 6}, "0 or odd")],
)
def test_bad_options(options: dict, needle: str) -> None:
    statistics = ClassStatistics(torch.zeros(19), torch.ones(19))
    with pytest.raises(ParameterError, match=needle):
        build_posthoc("sml_smoothed", statistics=statistics, **options)

# SPDX-License-Identifier: Apache-2.0
"""Labels and masks on a coarser grid, against OpenCV and plain loops."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from training.losses.grids import nearest, reduce_mask


@pytest.mark.parametrize("size", [(6, 8), (24, 32), (16, 64)])
def test_nearest_equals_opencv(size: tuple[int, int]) -> None:
    values = np.random.default_rng(0).integers(0, 255, (24, 32), np.uint8)
    expected = cv2.resize(values, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    actual = nearest(torch.from_numpy(values)[None], size)[0]
    np.testing.assert_array_equal(actual.numpy(), expected)


@pytest.mark.parametrize("coverage", [0.1, 0.5, 1.0])
def test_area_counts_the_pixels_of_each_cell(coverage: float) -> None:
    mask = np.random.default_rng(1).choice([0, 1, 255], (2, 12, 16), p=[0.4, 0.4, 0.2])
    actual = reduce_mask(torch.from_numpy(mask).to(torch.uint8), (3, 4), "area", coverage)
    for n in range(2):
        for i in range(3):
            for j in range(4):
                cell = mask[n, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
                if (cell == 1).sum() >= 16 * coverage:
                    expected = 1
                else:
                    expected = 0 if (cell == 0).sum() >= 8 else 255
                assert actual[n, i, j] == expected


def test_a_tiny_object_vanishes_under_nearest() -> None:
    mask = torch.zeros(1, 16, 16, dtype=torch.uint8)
    mask[0, 4:6, 4:6] = 1  # a quarter of one cell, off its centre
    assert not (reduce_mask(mask, (4, 4)) == 1).any()
    assert not (reduce_mask(mask, (4, 4), "area") == 1).any()
    kept = reduce_mask(mask, (4, 4), "area", min_coverage=0.25)
    assert (kept == 1).nonzero().tolist() == [[0, 1, 1]]

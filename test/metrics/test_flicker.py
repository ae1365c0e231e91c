# SPDX-License-Identifier: Apache-2.0
"""Changed pixels between successive frames."""

from __future__ import annotations

import numpy as np
import pytest

from anomaly_seg_ros.errors import ImageError
from anomaly_seg_ros.metrics.flicker import Flicker


def test_every_pair_counts_by_its_pixels() -> None:
    rng = np.random.default_rng(0)
    masks, labels = rng.random((6, 8, 9)) < 0.4, rng.integers(0, 3, (6, 8, 9), np.uint8)
    flicker = Flicker()
    for mask, label in zip(masks, labels, strict=True):
        flicker.update(mask, label)
    # A change of a mask is one unit of its difference in time.
    expected = np.abs(np.diff(masks.astype(float), axis=0)).mean()
    assert flicker.compute() == (
        pytest.approx(expected),
        pytest.approx((np.diff(labels.astype(int), axis=0) != 0).mean()),
        5,
    )


def test_frames_of_another_size_are_no_pair() -> None:
    flicker = Flicker()
    assert np.isnan(flicker.compute()[:2]).all()
    for size in ((4, 5), (4, 6), (4, 6), (4, 5)):
        flicker.update(np.zeros(size, bool), np.full(size, size[1], np.uint8))
    assert flicker.compute() == (0.0, 0.0, 1)
    with pytest.raises(ImageError, match=r"mask is \(4, 5\), labels are \(5, 4\)"):
        flicker.update(np.zeros((4, 5), bool), np.zeros((5, 4), np.uint8))

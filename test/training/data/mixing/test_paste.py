# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from training.data.mixing.paste import blend, cast_shadow, fit_to_box, soften
from training.data.mixing.placement import Box

BACKGROUND = (0, 0, 255)


def disc(size: int = 41) -> tuple[np.ndarray, np.ndarray]:
    """A red disc on blue."""
    y, x = np.mgrid[:size, :size] - size // 2
    mask = x**2 + y**2 <= (size // 2 - 1) ** 2
    image = np.where(mask[..., None], (255, 0, 0), BACKGROUND).astype(np.uint8)
    return image, mask


@pytest.mark.parametrize("size", [(9, 9), (20, 60), (83, 83)])
def test_the_old_background_never_shows(size: tuple[int, int]) -> None:
    image, mask = disc()
    colours, coverage = fit_to_box(image, mask, Box(0, 0, *size), mirror=False)
    assert colours.shape == (*size, 3)
    assert coverage.shape == size
    visible = colours[coverage > 0.05].astype(int)
    assert visible[:, 0].min() >= 253
    assert visible[:, 2].max() <= 2


def test_mirroring_turns_mask_and_image_alike() -> None:
    mask = np.zeros((10, 10), bool)
    mask[:, :3] = True
    image = np.zeros((10, 10, 3), np.uint8)
    image[:, 0] = 200
    colours, coverage = fit_to_box(image, mask, Box(0, 0, 10, 10), mirror=True)
    assert np.array_equal(coverage >= 0.5, mask[:, ::-1])
    assert (colours[:, 9] == 200).all()


def test_hard_edges_are_binary_and_soft_ones_never_grow() -> None:
    coverage = disc()[1].astype(np.float32)
    hard, soft = soften(coverage, 0), soften(coverage, 1.0)
    assert set(np.unique(hard)) == {0.0, 1.0}
    assert (soft[coverage == 0] == 0).all()
    assert ((soft > 0.05) & (soft < 0.95)).sum() > 50
    assert soft[20, 20] == pytest.approx(1, abs=1e-5)


def test_blend_is_the_convex_combination() -> None:
    frame = np.full((8, 8, 3), 100, np.uint8)
    labels = np.zeros((8, 8), np.uint8)
    coverage = np.array([[1.0, 0.5], [0.3, 0.0]], np.float32)
    blend(frame, labels, np.full((2, 2, 3), 200, np.uint8), coverage, Box(3, 4, 2, 2), 254, 253)
    assert frame[3:5, 4:6, 0].tolist() == [[200, 150], [130, 100]]
    assert labels[3:5, 4:6].tolist() == [[254, 254], [253, 0]]
    assert (np.delete(frame, [3, 4], axis=0) == 100).all()


def test_shadow_darkens_around_the_foot_only() -> None:
    frame = np.full((60, 80, 3), 120, np.uint8)
    box = Box(top=10, left=30, height=30, width=20)
    cast_shadow(frame, box, 0.5, 1.0)
    darkest = np.unravel_index(frame[..., 0].argmin(), frame.shape[:2])
    assert abs(darkest[0] - 39) <= 2
    assert 30 <= darkest[1] < 50
    assert frame[darkest][0] == pytest.approx(60, abs=2)
    assert (frame[:25] == 120).all()
    assert (frame[:, :10] == 120).all()


def test_a_shadow_at_the_frame_s_edge_is_cut_off() -> None:
    frame = np.full((20, 20, 3), 120, np.uint8)
    cast_shadow(frame, Box(10, 0, 10, 20), 0.5, 1.0)
    assert frame.min() < 90

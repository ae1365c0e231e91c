"""Training views: geometry, alignment of image and label, determinism."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.augment import ViewOptions, random_view

PLAIN = ViewOptions(crop=(64, 96), photometric=0.0, blur_probability=0.0)


def striped_frame(height: int = 128, width: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """An image whose colour tells its label: 0 left, 200 right."""
    label = np.zeros((height, width), np.uint8)
    label[:, width // 2 :] = 1
    return np.repeat(label[..., None] * np.uint8(200), 3, axis=2), label


@pytest.mark.parametrize("seed", range(8))
def test_image_and_label_stay_aligned(seed: int) -> None:
    image, label = striped_frame()
    view, target = random_view(image, label, PLAIN, np.random.default_rng(seed), aspect=2.0)
    assert view.shape == (64, 96, 3)
    assert target.shape == (64, 96)
    seen = target != 255
    agree = (view[..., 0] > 100) == (target == 1)
    assert agree[seen].mean() > 0.97  # interpolation blurs the one edge


def test_outside_of_the_frame_is_ignored() -> None:
    options = ViewOptions((300, 300), (100, 101), photometric=0, blur_probability=0)
    image, label = striped_frame()
    view, target = random_view(image, label, options, np.random.default_rng(0))
    outside = target == 255
    assert 0.8 < outside.mean() < 0.95  # about 1 - 100 * 100 / 300^2
    assert not view[outside].any() or view[outside].mean() < 5


def test_focus_class_is_in_the_view() -> None:
    image, label = striped_frame(512, 1024)
    label[:] = 0
    label[400:404, 900:904] = 7
    options = ViewOptions((64, 96), (512, 513), photometric=0, blur_probability=0)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        _, target = random_view(image, label, options, rng, focus_class=7)
        assert (target == 7).any()


def test_a_view_is_a_function_of_its_seed() -> None:
    image, label = striped_frame()
    rng = np.random.default_rng
    first = random_view(image, label, ViewOptions((64, 96)), rng([1, 5]))
    again = random_view(image, label, ViewOptions((64, 96)), rng([1, 5]))
    other = random_view(image, label, ViewOptions((64, 96)), rng([1, 6]))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])

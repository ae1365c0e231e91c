# SPDX-License-Identifier: Apache-2.0
"""EXIF: ground truth is made for the stored pixels, and photographs without it are turned."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_images import with_orientation

from anomaly_seg_ros.datasets import open_dataset
from anomaly_seg_ros.errors import ImageError
from anomaly_seg_ros.io.images import read_annotated_image, read_image

TOP = np.array([250, 10, 10], np.uint8)
STORED = np.zeros((32, 48, 3), np.uint8)
STORED[:16] = TOP


@pytest.fixture
def photograph(put, tmp_path):
    def write(orientation: int):
        path = put("images/a.jpg", STORED)
        path.write_bytes(with_orientation(path.read_bytes(), orientation))
        return path

    return write


def shows_the_top_first(image: np.ndarray) -> bool:
    """Whether the red half is where it is stored (a JPEG changes values a bit)."""
    return image.shape == STORED.shape and np.abs(image.astype(int) - STORED).mean() < 5


def test_photographs_without_ground_truth_are_turned(photograph, tmp_path):
    path = photograph(3)
    (sample,) = open_dataset("folder", tmp_path)
    image = sample.load().image
    assert shows_the_top_first(image[::-1, ::-1])
    assert shows_the_top_first(read_image(path, upright=False))
    photograph(6)
    assert sample.load().image.shape == (48, 32, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("labels", ["anomaly", "classes"])
def test_ground_truth_is_for_the_stored_pixels(put, photograph, tmp_path, orientation, labels):
    photograph(orientation)
    stored = (STORED[..., 0] == TOP[0]).astype(np.uint8)
    put("labels/a.png", stored)
    loaded = open_dataset("folder", tmp_path, labels=labels)[0].load()
    assert shows_the_top_first(loaded.image)
    truth = loaded.anomaly_mask if labels == "anomaly" else loaded.labels
    assert np.array_equal(truth, stored)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_ground_truth_of_the_upright_size_is_for_the_upright_image(
    put, photograph, tmp_path, orientation
):
    path = photograph(orientation)
    put("labels/a.png", np.zeros((48, 32), np.uint8))
    loaded = open_dataset("folder", tmp_path)[0].load()
    assert np.array_equal(loaded.image, read_image(path))
    assert loaded.image.shape == (48, 32, 3)


def test_an_image_of_another_size_is_refused_whatever_its_orientation(put, photograph, tmp_path):
    path = photograph(6)
    put("labels/a.png", np.zeros((48, 31), np.uint8))
    with pytest.raises(ImageError, match=r"31x48 pixels, but .*a\.jpg has 48x32"):
        open_dataset("folder", tmp_path)[0].load()
    photograph(1)
    # No orientation turns a picture of the exchanged size.
    assert read_annotated_image(path, (48, 32)).shape == STORED.shape

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from anomaly_seg_ros.datasets import detect_dataset
from anomaly_seg_ros.datasets.fishyscapes_static import FishyscapesStaticDataset
from anomaly_seg_ros.errors import DatasetError, ImageError

MASK = np.array([[0, 1, 255, 0, 0, 1]] * 4, np.uint8)
NAMES = ("frankfurt_000001_046504", "munster_000020_000019")


@pytest.fixture
def put_overlay(tmp_path):
    def write(relative: str, **arrays) -> None:
        path = tmp_path / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **arrays)

    return write


@pytest.mark.parametrize("folder", ["", "fs_val_v3/"])
def test_overlays_are_added_to_cityscapes(put, put_overlay, picture, tmp_path, folder):
    rng = np.random.default_rng(0)
    overlays = rng.integers(-300, 300, (2, 4, 6, 3), np.int16)
    for number, name in enumerate(NAMES):
        put(f"{folder}{number:04}_{name}_labels.png", MASK)
        put_overlay(f"{folder}{number:04}_{name}_rgb.npz", rgb=overlays[number])
        city = name.split("_")[0]
        put(f"leftImg8bit/val/{city}/{name}_leftImg8bit.png", picture + np.uint8(number))
    assert detect_dataset(tmp_path) == "fishyscapes_static"
    dataset = FishyscapesStaticDataset(tmp_path)
    assert [x.name for x in dataset] == [f"0000_{NAMES[0]}", f"0001_{NAMES[1]}"]
    for number, sample in enumerate(dataset):
        loaded = sample.load()
        total = (picture + np.uint8(number)).astype(float) + overlays[number]
        assert loaded.image.dtype == np.uint8
        assert np.array_equal(loaded.image, np.minimum(np.maximum(total, 0), 255))
        assert np.array_equal(loaded.anomaly_mask, MASK)


def test_rendered_images_need_no_cityscapes(put, picture, tmp_path):
    for number, name in enumerate(NAMES):
        put(f"{number:04}_{name}_labels.png", MASK)
        put(f"{number:04}_{name}_rgb.png", picture + np.uint8(number))
    assert detect_dataset(tmp_path) == "fishyscapes_static"
    dataset = FishyscapesStaticDataset(tmp_path)
    assert np.array_equal(dataset[1].load().image, picture + np.uint8(1))
    assert dataset[1].overlay_path is None


def test_versions_are_not_mixed(put, put_overlay, picture, tmp_path):
    for version in (1, 2):
        put(
            f"fs_val_v{version}/0000_{NAMES[0]}_labels.png", np.full((4, 6), version - 1, np.uint8)
        )
        put_overlay(f"fs_val_v{version}/0000_{NAMES[0]}_rgb.npz", rgb=np.zeros((4, 6, 3), int))
        put(f"fs_static_images_v{version}/0000_{NAMES[0]}_rgb.png", picture + np.uint8(version))
    put(f"fishyscapes_lostandfound/0000_{NAMES[1]}_labels.png", MASK)
    (sample,) = FishyscapesStaticDataset(tmp_path)
    loaded = sample.load()
    assert np.array_equal(loaded.image, picture + np.uint8(2))
    assert (loaded.anomaly_mask == 1).all()


def test_cityscapes_may_lie_elsewhere(put, put_overlay, picture, tmp_path):
    put(f"release/0000_{NAMES[0]}_labels.png", MASK)
    put_overlay(f"release/0000_{NAMES[0]}_rgb.npz", rgb=np.ones((4, 6, 3), np.int16))
    with pytest.raises(DatasetError, match=f"no Cityscapes image {NAMES[0]}_leftImg8bit.png for"):
        FishyscapesStaticDataset(tmp_path / "release")
    put(f"cityscapes/leftImg8bit/val/frankfurt/{NAMES[0]}_leftImg8bit.png", picture)
    (sample,) = FishyscapesStaticDataset(tmp_path / "release", images=tmp_path / "cityscapes")
    assert np.array_equal(sample.load().image, picture + np.uint8(1))


def test_wrong_trees(put, picture, tmp_path):
    with pytest.raises(DatasetError, match=r"found no image(.|\n)*NNNN_NAME_rgb\.npz"):
        FishyscapesStaticDataset(tmp_path)
    put(f"0000_{NAMES[0]}_labels.png", MASK)
    with pytest.raises(DatasetError, match=rf"no 0000_{NAMES[0]}_rgb\.\* for .*_labels\.png"):
        FishyscapesStaticDataset(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"rgb": np.zeros((4, 5, 3), np.int16)}, r"shape \(4, 6, 3\), got int16 of shape \(4, 5"),
        ({"rgb": np.zeros((4, 6, 3))}, "expected whole numbers .* got float64"),
        ({"rgb": np.full((4, 6, 3), None)}, "no npz file with an array 'rgb'"),  # a pickle
        ({"bgr": np.zeros((4, 6, 3), int)}, "no npz file with an array 'rgb'"),
        (None, "no npz file with an array 'rgb'"),
    ],
)
def test_faulty_overlays(put, put_overlay, picture, tmp_path, arrays, message):
    put(f"0000_{NAMES[0]}_labels.png", MASK)
    put(f"{NAMES[0]}_leftImg8bit.png", picture)
    overlay = f"0000_{NAMES[0]}_rgb.npz"
    if arrays is None:
        (tmp_path / overlay).write_bytes(b"PK\x03\x04 damaged")
    else:
        put_overlay(overlay, **arrays)
    (sample,) = FishyscapesStaticDataset(tmp_path)
    with pytest.raises(ImageError, match=rf"_rgb\.npz: .*{message}"):
        sample.load()

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from anomaly_seg_ros.datasets import FishyscapesDataset, detect_dataset
from anomaly_seg_ros.errors import DatasetError

MASK = np.array([[0, 1, 255, 0, 0, 1]] * 4, np.uint8)
NAMES = ("04_Maurener_Weg_8_000000_000030", "01_Hanns_Klemm_Str_45_000000_000080")


@pytest.mark.parametrize("place", ["leftImg8bit/test/seq/", "laf_images/"])
def test_official_masks_find_their_images(put, picture, tmp_path, place):
    for number, name in enumerate(NAMES):
        put(f"fishyscapes_lostandfound/{number:04}_{name}_labels.png", MASK)
        put(f"{place}{name}_leftImg8bit.png", picture + np.uint8(number))
    put(f"{place}05_other_000000_000000_leftImg8bit.png", picture)
    dataset = FishyscapesDataset(tmp_path)
    assert [x.name for x in dataset] == [f"0000_{NAMES[0]}", f"0001_{NAMES[1]}"]
    assert np.array_equal(dataset[1].load().image, picture + np.uint8(1))
    assert np.array_equal(dataset[1].load().anomaly_mask, MASK)


def test_images_may_lie_elsewhere(put, picture, tmp_path):
    put(f"release/fishyscapes_lostandfound/0000_{NAMES[0]}_labels.png", MASK)
    with pytest.raises(DatasetError, match=f"no image {NAMES[0]}_leftImg8bit.png for"):
        FishyscapesDataset(tmp_path / "release")
    put(f"laf/{NAMES[0]}_leftImg8bit.webp", picture)
    assert len(FishyscapesDataset(tmp_path / "release", images=tmp_path / "laf")) == 1


@pytest.mark.parametrize(
    ("mask", "name"),
    [
        ("0003_{}_labels.png", "0003_{}"),  # the archive, unpacked without a folder of its own
        ("labels/val/{}_fishy-labels.png", "{}"),  # the copy of road-anomaly-benchmark
    ],
)
def test_other_places_of_the_masks(put, picture, tmp_path, mask, name):
    put(mask.format(NAMES[0]), MASK)
    put(f"leftImg8bit/train/seq/{NAMES[0]}_leftImg8bit.png", picture)
    assert detect_dataset(tmp_path) == "fishyscapes"
    (sample,) = FishyscapesDataset(tmp_path)
    assert sample.name == name.format(NAMES[0])
    assert np.array_equal(sample.load().anomaly_mask, MASK)


def test_wrong_tree(tmp_path):
    with pytest.raises(DatasetError, match=r"found no mask(.|\n)*NNNN_NAME_labels\.png"):
        FishyscapesDataset(tmp_path)


@pytest.mark.data
def test_real_pairs(shared_data):
    dataset = FishyscapesDataset(shared_data / "anomaly" / "fishyscapes_lostandfound")
    assert len(dataset) == 17
    loaded = dataset[0].load()
    assert loaded.image.shape == (1024, 2048, 3)
    assert np.unique(loaded.anomaly_mask).tolist() == [0, 1, 255]

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import cv2
import numpy as np
import pytest

from anomaly_seg_ros.datasets import FolderDataset, detect_dataset, open_dataset
from anomaly_seg_ros.errors import CheckpointError, DatasetError, ImageError, ParameterError
from anomaly_seg_ros.system.resources import ResourceError
from anomaly_seg_ros.taxonomy import GROUND, load_taxonomy

MASK = np.array([[0, 1, 255, 0, 0, 1]] * 4, np.uint8)


def test_pairs_by_stem_in_sorted_order(put, picture, tmp_path):
    for name in ("b.ppm", "a.png", "c.webp"):
        put(f"images/{name}", picture)
        put(f"labels/{name[0]}.png", MASK)
    put("images/._a.png", picture)  # what macOS leaves behind
    dataset = FolderDataset(tmp_path)
    assert [x.name for x in dataset] == ["a", "b", "c"]
    assert len(dataset) == 3
    loaded = dataset[0].load()
    assert np.array_equal(loaded.image, picture)
    assert np.array_equal(loaded.anomaly_mask, MASK)
    assert loaded.labels is None
    assert loaded.disparity is None
    assert loaded.camera is None


def test_class_labels_are_read_as_stored(put, picture, tmp_path):
    put("images/a.png", picture)
    stored = np.full((4, 6), 13, np.uint8)
    put("masks/a.png", stored)
    loaded = FolderDataset(tmp_path, labels="classes")[0].load()
    assert np.array_equal(loaded.labels, stored)
    assert loaded.anomaly_mask is None
    with pytest.raises(ImageError, match=r"a\.png: holds the value 13.*labels=classes"):
        FolderDataset(tmp_path)[0].load()


YARD = """
classes:
  - {name: gravel, colour: [150, 140, 130], role: ground}
  - {name: forklift, colour: [0, 60, 100], role: thing}
"""


def test_classes_of_ones_own(put, picture, tmp_path):
    file = tmp_path / "yard.yaml"
    file.write_text(YARD)
    put("images/a.png", picture)
    stored = np.array([[0, 1, 255, 0, 0, 1]] * 4, np.uint8)
    put("labels/a.png", stored)
    for given in (file, str(file)):
        dataset = open_dataset("folder", tmp_path, labels="classes", taxonomy=given)
        assert dataset.classes == ("gravel", "forklift")
        assert load_taxonomy(dataset.taxonomy_name).ids_of(GROUND) == (0,)
        assert np.array_equal(dataset[0].load().labels, stored)
    put("labels/a.png", np.full((4, 6), 2, np.uint8))
    message = r"labels/a\.png: holds the value 2, .*trainIds 0 to 1.*label_map$"
    with pytest.raises(ImageError, match=message):
        dataset[0].load()
    with pytest.raises(ImageError, match=r"holds the value 2, .*trainIds 0 to 1"):
        FolderDataset(tmp_path, labels="classes", taxonomy=file)[0].read_labels()
    put("labels/a.png", np.full((4, 6), 11, np.uint8))
    dataset = FolderDataset(tmp_path, labels="classes", taxonomy="streethazards")
    assert (dataset[0].read_labels() == 11).all()


def test_classes_of_ones_own_that_cannot_be_meant(put, picture, tmp_path):
    put("images/a.png", picture)
    for labels in (None, "anomaly", "label_ids"):
        with pytest.raises(ParameterError, match="taxonomy: is for class labels"):
            FolderDataset(tmp_path, labels=labels, taxonomy="cityscapes")
    with pytest.raises(CheckpointError, match=r"none\.yaml: No such file"):
        FolderDataset(tmp_path, labels="classes", taxonomy=tmp_path / "none.yaml")
    with pytest.raises(ResourceError, match=r"no file config/taxonomies/mars\.yaml"):
        FolderDataset(tmp_path, labels="classes", taxonomy="mars")


@pytest.mark.parametrize("labels", ["labels", "masks", "labels_masks"])
@pytest.mark.parametrize("images", ["images", "original"])
def test_names_of_the_folders(put, picture, tmp_path, images, labels):
    put(f"{images}/a.webp", picture)
    put(f"{labels}/a.png", MASK)
    assert detect_dataset(tmp_path) == "folder"
    assert np.array_equal(FolderDataset(tmp_path)[0].load().anomaly_mask, MASK)


@pytest.mark.parametrize("place", ["", "images/", "val/images/"])
def test_images_alone(put, picture, tmp_path, place):
    put(f"{place}a.png", picture)
    dataset = FolderDataset(tmp_path, split="val" if place.startswith("val") else None)
    loaded = dataset[0].load()
    assert loaded.anomaly_mask is None
    assert loaded.labels is None


def test_a_label_of_another_size_names_both_files(put, picture, tmp_path):
    put("images/a.png", picture)
    put("labels/a.png", MASK[:2])
    with pytest.raises(
        ImageError, match=r"labels/a\.png: 6x2 pixels, but .*images/a\.png has 6x4"
    ):
        FolderDataset(tmp_path)[0].load()


def test_nothing_is_read_before_it_is_asked_for(put, picture, tmp_path):
    path = put("images/a.png", picture)
    path.write_bytes(b"damaged")
    sample = FolderDataset(tmp_path)[0]
    with pytest.raises(ImageError):
        sample.load()


def test_wrong_trees_show_the_expected_one(put, picture, tmp_path):
    with pytest.raises(DatasetError, match=r"found no image(.|\n)*ROOT\[/SPLIT\]/images"):
        FolderDataset(tmp_path)
    put("val/images/a.png", picture)
    with pytest.raises(DatasetError, match="choose a split: val"):
        FolderDataset(tmp_path)
    with pytest.raises(DatasetError, match=r"no split 'test' \(found: val\)"):
        FolderDataset(tmp_path, split="test")
    put("val/labels/other.png", MASK)
    with pytest.raises(DatasetError, match=r"no label for a\.png"):
        FolderDataset(tmp_path, split="val")
    put("val/images/a.ppm", picture)
    put("val/labels/a.png", MASK)
    with pytest.raises(DatasetError, match="share a stem"):
        FolderDataset(tmp_path, split="val")
    with pytest.raises(ParameterError, match="labels: expected one of anomaly, classes"):
        FolderDataset(tmp_path, labels="colours")


@pytest.mark.data
@pytest.mark.parametrize(
    ("folder", "count", "size"),
    [
        ("fishyscapes_lostandfound", 17, (1024, 2048)),
        ("fishyscapes_static", 10, (1024, 2048)),
        ("road_anomaly", 15, (720, 1280)),
        ("smiyc_obstacle", 8, (1080, 1920)),
    ],
)
def test_real_anomaly_sets(shared_data, folder, count, size):
    dataset = FolderDataset(shared_data / "anomaly" / folder)
    assert len(dataset) == count
    loaded = dataset[-1].load()
    assert loaded.image.shape == (*size, 3)
    assert set(np.unique(loaded.anomaly_mask)) <= {0, 1, 255}
    assert any((x.read_anomaly_mask() == 1).any() for x in dataset)  # not in every frame
    # The file's own decoder in another colour order.
    path = str(dataset[-1].image_path)
    assert np.array_equal(loaded.image[..., ::-1], cv2.imread(path, cv2.IMREAD_COLOR))

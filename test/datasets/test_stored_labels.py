# SPDX-License-Identifier: Apache-2.0
"""Values that no class has are refused, whatever data set they lie in."""

from __future__ import annotations

import numpy as np
import pytest

from anomaly_seg_ros.datasets import open_dataset
from anomaly_seg_ros.errors import ImageError
from training.data.frames import SampleFrames


def labels_of(value: int) -> np.ndarray:
    labels = np.zeros((4, 6), np.uint8)
    labels[1, 2] = value
    return labels


@pytest.fixture
def put_labels(put, picture, tmp_path):
    """Writes ``images/a.png`` and its labels, and opens them."""

    def write(value: int, **options: str):
        put("images/a.png", picture)
        put("labels/a.png", labels_of(value))
        return open_dataset("folder", tmp_path, **{"labels": "classes", **options})

    return write


@pytest.mark.parametrize("value", [34, 200, 253, 254])
def test_a_folder_of_class_labels(put_labels, value):
    dataset = put_labels(value)
    with pytest.raises(ImageError, match=rf"labels/a\.png: holds the value {value}, .*label_map"):
        dataset[0].load()
    with pytest.raises(ImageError, match=f"holds the value {value}"):
        SampleFrames("ours", dataset).index()


@pytest.mark.parametrize("value", [19, 26, 33])
def test_label_ids_taken_for_train_ids_are_recognised(put_labels, value):
    with pytest.raises(ImageError, match=r"look like Cityscapes labelIds; .*labels=label_ids"):
        put_labels(value)[0].load()


def test_label_ids_of_a_folder(put_labels):
    loaded = put_labels(26, labels="label_ids")[0].load()
    assert np.array_equal(loaded.labels, np.where(labels_of(26) == 26, 13, 255))
    assert loaded.anomaly_mask is None
    with pytest.raises(ImageError, match="holds the value 40, which is no label"):
        put_labels(40, labels="label_ids")[0].load()


@pytest.mark.parametrize("value", [0, 18, 255])
def test_train_ids_pass(put_labels, value):
    assert np.array_equal(put_labels(value)[0].load().labels, labels_of(value))


LAYOUTS = {
    "cityscapes": (
        "leftImg8bit/val/ulm/a_leftImg8bit.png",
        "gtFine/val/ulm/a_gtFine_labelIds.png",
        (0, 7, 33, 255),
        (34, 100, 254),
    ),
    "lost_and_found": (
        "leftImg8bit/test/s/a_leftImg8bit.png",
        "gtCoarse/test/s/a_gtCoarse_labelIds.png",
        (0, 1, 43),
        (44, 255),
    ),
    "segment_me_if_you_can": (
        "images/a.png",
        "labels_masks/a_labels_semantic.png",
        (0, 1, 255),
        (2, 254),
    ),
    "road_anomaly": (
        "frames/a.jpg",
        "frames/a.labels/labels_semantic.png",
        (0, 1, 2, 255),
        (3, 254),
    ),
    "street_hazards": (
        "test/images/test/t5/1.png",
        "test/annotations/test/t5/1.png",
        (0, 1, 14, 255),
        (15, 200),
    ),
    "bdd_anomaly": (
        "images/10k/val/a.jpg",
        "labels/sem_seg/masks/val/a.png",
        (0, 18, 255),
        (19, 33, 254),
    ),
    "camvid": ("train/a.png", "trainannot/a.png", (0, 10, 11, 255), (12, 200)),
    "fishyscapes": ("0_a_leftImg8bit.png", "0000_0_a_labels.png", (0, 1, 255), (2, 254)),
}
SPLITS = {"bdd_anomaly": "val", "camvid": "train"}
CASES = [(name, value) for name, (_, _, _, values) in LAYOUTS.items() for value in values]


@pytest.mark.parametrize(("name", "value"), CASES)
def test_official_layouts(put, picture, tmp_path, name, value):
    image, label, good, _ = LAYOUTS[name]
    path = put(image, picture)
    put(label, labels_of(value))
    dataset = open_dataset(name, tmp_path, split=SPLITS.get(name))
    assert dataset[0].image_path == path
    with pytest.raises(ImageError, match=f"holds the value {value}, which is no"):
        dataset[0].load()
    for value in good:
        put(label, labels_of(value))
        dataset[0].load()


@pytest.mark.parametrize("name", ["labels", "anomaly_mask"])
def test_the_rendered_clip(put, picture, tmp_path, name):
    keys = ("fx", "fy", "cx", "cy", "baseline_m", "frame_rate")
    put("camera.json", dict.fromkeys(keys, 1))
    put("images/000.png", picture)
    for folder in ("labels", "anomaly_mask"):
        put(f"{folder}/000.png", labels_of(0))
    (sample,) = open_dataset("clip", tmp_path)
    sample.load()
    put(f"{name}/000.png", labels_of(19))
    with pytest.raises(ImageError, match=rf"{name}/000\.png: holds the value 19"):
        sample.load()


def test_camvid_ids_that_no_class_has(put, picture, tmp_path):
    put("classes.json", {"0": "Road", "1": "Animal"})
    put("images/a.png", picture)
    for value, is_known in ((1, True), (255, True), (2, False)):
        put("labels/a.png", labels_of(value))
        (sample,) = open_dataset("camvid", tmp_path)
        if is_known:
            sample.load()
        else:
            with pytest.raises(ImageError, match="holds the value 2"):
                sample.load()


def test_the_classes_are_those_of_the_label_maps_taxonomy(put_labels, tmp_path):
    path = tmp_path / "map.yaml"
    path.write_text("taxonomy: streethazards\nlabels: {0: 0, 7: 11}\n")
    assert put_labels(7, labels=None, label_map=path)[0].load().labels.max() == 11
    with pytest.raises(ImageError, match="holds the value 8"):
        put_labels(8, labels=None, label_map=path)[0].load()


def test_the_reported_set(shared_cases):
    folder = shared_cases / "masks" / "class_labels_with_200"
    with pytest.raises(ImageError, match=r"labels/a\.png: holds the value 200"):
        open_dataset("folder", folder, labels="classes")[0].load()

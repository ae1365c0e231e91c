# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import cv2
import numpy as np
import pytest

from anomaly_seg_ros.datasets import detect_dataset
from anomaly_seg_ros.datasets.bdd_anomaly import BddAnomalyDataset
from anomaly_seg_ros.errors import DatasetError, ImageError, ParameterError

KNOWN = np.array([*range(16), 18, 255, *[0] * 6], np.uint8).reshape(4, 6)
SHAPES = {
    "10k": ("images/10k/{}/{}.jpg", "labels/sem_seg/masks/{}/{}.png"),
    "seg": ("seg/images/{}/{}.jpg", "seg/labels/{}/{}_train_id.png"),
}


def with_class(index: int) -> np.ndarray:
    labels = np.minimum(KNOWN, 15)
    labels[0, 0], labels[0, 1] = index, 255
    return labels


@pytest.fixture(params=SHAPES)
def bdd(request, put, picture):
    """A release with frames of known classes only, and of each class that may be unknown."""
    images, labels = SHAPES[request.param]
    frames = {
        ("train", "plain"): with_class(3),
        ("train", "motorcycle"): with_class(17),
        ("train", "bicycle"): with_class(18),
        ("val", "all_known"): KNOWN,
        ("val", "train"): with_class(16),
    }
    for (split, name), ids in frames.items():
        put(images.format(split, name), picture)
        put(labels.format(split, name), ids)


def names(*arguments, **options) -> list[str]:
    return [x.name for x in BddAnomalyDataset(*arguments, **options)]


@pytest.mark.usefixtures("bdd")
def test_frames_are_split_by_what_they_show(tmp_path):
    assert detect_dataset(tmp_path) == "bdd_anomaly"
    assert names(tmp_path) == ["motorcycle", "train"]
    assert names(tmp_path, split="train") == ["bicycle", "plain"]
    assert names(tmp_path, split="val") == ["all_known"]
    wider = "motorcycle+train+bicycle"
    assert names(tmp_path, anomalies=wider) == ["bicycle", "motorcycle", "all_known", "train"]
    assert names(tmp_path, split="train", anomalies=wider) == ["plain"]
    with pytest.raises(DatasetError, match="found no image"):
        BddAnomalyDataset(tmp_path, split="val", anomalies=wider)


@pytest.mark.usefixtures("bdd")
def test_labels_and_masks(tmp_path):
    (known,) = BddAnomalyDataset(tmp_path, split="val")
    loaded = known.load()
    assert loaded.labels.ravel()[:18].tolist() == [*range(16), 16, 255]  # bicycle closes the gap
    assert loaded.anomaly_mask.ravel()[:18].tolist() == [0] * 17 + [255]
    motorcycle, train = BddAnomalyDataset(tmp_path)
    for sample in (motorcycle, train):
        loaded = sample.load()
        assert loaded.anomaly_mask[0, :3].tolist() == [1, 255, 0]
        assert loaded.labels[0, :3].tolist() == [255, 255, 2]
    loaded = BddAnomalyDataset(tmp_path, unlabelled="known")[0].load()
    assert loaded.anomaly_mask[0, :3].tolist() == [1, 0, 0]
    assert loaded.labels[0, 1] == 255


@pytest.mark.usefixtures("bdd")
def test_bicycle_has_no_train_id_where_it_is_unknown(tmp_path):
    dataset = BddAnomalyDataset(tmp_path, anomalies="motorcycle+train+bicycle")
    loaded = dataset[0].load()
    assert loaded.anomaly_mask[0, 0] == 1
    assert loaded.labels[0, 0] == 255


def test_errors(put, picture, tmp_path):
    put("images/10k/val/a.jpg", picture)
    message = r"images of train \(found: val\)(.|\n)*seg/labels/\{train,val\}"
    with pytest.raises(DatasetError, match=message):
        BddAnomalyDataset(tmp_path)
    with pytest.raises(ImageError, match=r"sem_seg/masks/val/a\.png: no such file"):
        BddAnomalyDataset(tmp_path, split="val")
    put("labels/sem_seg/masks/val/a.png", np.full((4, 6), 20, np.uint8))
    with pytest.raises(ImageError, match="holds the value 20"):
        BddAnomalyDataset(tmp_path, split="val")[0].load()
    with pytest.raises(ParameterError, match=r"anomalies: expected one of motorcycle\+train, "):
        BddAnomalyDataset(tmp_path, anomalies="car")


@pytest.mark.data
def test_real_frames(shared_data, tmp_path):
    """Each of the 24 frames is in one split, as its labels say."""
    folders = {"images/10k": "images", "labels/sem_seg/masks": "labels"}
    for official, ours in folders.items():
        (tmp_path / official).mkdir(parents=True)
        (tmp_path / official / "val").symlink_to(shared_data / "bdd100k" / ours)
    (tmp_path / "images/10k/train").mkdir()
    known, unknown = names(tmp_path, split="val"), names(tmp_path)
    assert len(known) + len(unknown) == len(set(known) | set(unknown)) == 24
    for name in known + unknown:
        stored = cv2.imread(str(shared_data / "bdd100k" / "labels" / f"{name}.png"), -1)
        assert (name in unknown) == bool(np.isin(stored, (16, 17)).any())
    assert unknown
    assert (BddAnomalyDataset(tmp_path)[0].load().anomaly_mask == 1).any()

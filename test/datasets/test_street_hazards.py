# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from anomaly_seg_ros.datasets import detect_dataset
from anomaly_seg_ros.datasets.street_hazards import StreetHazardsDataset
from anomaly_seg_ros.errors import DatasetError, ParameterError

# Every label that occurs, 1 to 14, and one that does not.
LABELS = np.array([*range(1, 15), 0, *[8] * 9], np.uint8).reshape(4, 6)


@pytest.fixture
def put_town(put, picture):
    """Writes frames 1 and 2 of a town; the images have an alpha channel."""

    def write(archive: str, split: str, town: str) -> None:
        for number in (1, 2):
            rgba = np.dstack([picture, np.full((4, 6), 255, np.uint8)])
            put(f"{archive}/images/{split}/{town}/{number}.png", rgba)
            put(f"{archive}/annotations/{split}/{town}/{number}.png", LABELS)

    return write


def peer_labels(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DenseHybrid's streethazards_test.py: trainIds (13 ignored) and 0 / 1 / 2 (ignored)."""
    outlier = np.where(raw == 14, 1, np.where(raw == 4, 2, 0))
    shifted = raw.astype(int) - 1
    shifted[shifted == 3] = 13
    shifted[shifted >= 3] -= 1
    return shifted, outlier


def test_labels_are_those_of_the_public_evaluator(put_town, tmp_path):
    put_town("test", "test", "t5")
    loaded = StreetHazardsDataset(tmp_path)[0].load()
    assert loaded.image.shape == (4, 6, 3)
    ids, outlier = peer_labels(LABELS)
    is_class = (LABELS != 4) & (LABELS != 14) & (LABELS != 0)
    assert np.array_equal(loaded.labels[is_class], ids[is_class])
    assert sorted(np.unique(loaded.labels)) == [*range(12), 255]
    assert (loaded.labels[~is_class] == 255).all()
    stored = LABELS != 0
    assert np.array_equal(
        loaded.anomaly_mask[stored], np.where(outlier == 2, 255, outlier)[stored]
    )
    assert (loaded.anomaly_mask[~stored] == 255).all()


def test_folds_are_the_test_towns(put_town, tmp_path):
    put_town("test", "test", "t6")
    put_town("test", "test", "t5")
    dataset = StreetHazardsDataset(tmp_path)
    assert detect_dataset(tmp_path) == "street_hazards"
    assert [(x.name, x.fold) for x in dataset] == [
        ("t5_1", "t5"),
        ("t5_2", "t5"),
        ("t6_1", "t6"),
        ("t6_2", "t6"),
    ]
    assert dataset[3].load().fold == "t6"
    assert [x.name for x in StreetHazardsDataset(tmp_path, fold="t6")] == ["t6_1", "t6_2"]
    with pytest.raises(DatasetError, match=r"no town 't7' \(found: t5, t6\)"):
        StreetHazardsDataset(tmp_path, fold="t7")


@pytest.mark.parametrize(("split", "town"), [("training", "t1-2"), ("validation", "t4")])
def test_training_archive(put_town, tmp_path, split, town):
    put_town("train", split, town)
    assert detect_dataset(tmp_path) == "street_hazards"
    dataset = StreetHazardsDataset(tmp_path, split=split)
    assert [(x.name, x.fold) for x in dataset] == [(f"{town}_1", ""), (f"{town}_2", "")]
    assert dataset[0].load().labels is not None


def test_other_may_be_known(put_town, tmp_path):
    put_town("test", "test", "t5")
    loaded = StreetHazardsDataset(tmp_path, other="known")[0].load()
    assert loaded.anomaly_mask[LABELS == 4].tolist() == [0]
    assert loaded.labels[LABELS == 4].tolist() == [255]


def test_errors(put_town, tmp_path):
    put_town("train", "training", "t1")
    with pytest.raises(
        DatasetError,
        match=r"no folder test/images/test \(splits found: training\)(.|\n)*\{t5,t6\}",
    ):
        StreetHazardsDataset(tmp_path)
    with pytest.raises(ParameterError, match="split: expected one of training, validation, test"):
        StreetHazardsDataset(tmp_path, split="train")
    with pytest.raises(ParameterError, match="other: expected one of ignore, known"):
        StreetHazardsDataset(tmp_path, split="training", other="drop")

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import pytest

from anomaly_seg_ros.datasets import CamVidDataset, detect_dataset
from anomaly_seg_ros.errors import DatasetError


def test_eleven_classes(put, picture, tmp_path):
    stored = np.array([*range(11), 255] * 2, np.uint8).reshape(4, 6)
    put("train/images/a.png", picture)
    put("train/labels/a.png", stored)
    loaded = CamVidDataset(tmp_path, split="train")[0].load()
    # sky, building, pole, road, pavement, tree, sign, fence, car, pedestrian, bicyclist, void
    expected = [10, 2, 5, 0, 1, 8, 255, 4, 13, 11, 255, 255]
    assert loaded.labels.ravel()[:12].tolist() == expected
    assert loaded.anomaly_mask is None


def test_thirty_two_classes(put, picture, tmp_path):
    names = ["Animal", "Road", "Void", "TrafficCone", "Truck_Bus", "OtherMoving"]
    put("classes.json", {str(i): name for i, name in enumerate(names)})
    put("images/a.png", picture)
    put("labels/a.png", np.array([0, 1, 2, 3, 4, 5] * 4, np.uint8).reshape(4, 6))
    loaded = CamVidDataset(tmp_path)[0].load()
    assert loaded.labels[0].tolist() == [255, 0, 255, 255, 255, 255]
    assert loaded.anomaly_mask[0].tolist() == [1, 0, 255, 1, 0, 1]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_tutorial_folders(put, picture, tmp_path, split):
    put(f"{split}/0001TP_008550.png", picture)
    put(f"{split}annot/0001TP_008550.png", np.array([*range(12)] * 2, np.uint8).reshape(4, 6))
    assert detect_dataset(tmp_path) == "camvid"
    (sample,) = CamVidDataset(tmp_path, split=split)
    expected = [10, 2, 5, 0, 1, 8, 255, 4, 13, 11, 255, 255]  # 11 is void
    assert sample.load().labels.ravel()[:12].tolist() == expected
    assert sample.load().anomaly_mask is None
    if split != "test":  # the default
        with pytest.raises(DatasetError, match=f"no split 'test' .found: {split}."):
            CamVidDataset(tmp_path)


@pytest.fixture
def original(put, picture, tmp_path):
    """The original release: 32 classes are colours, here four and one that is not defined."""
    lines = ("64 128 64\tAnimal", "128 64 128\t\tRoad", "0 0 0\t\tVoid", "64 0 128\tCar", "")
    path = tmp_path / "label_colors.txt"
    path.write_text("\n".join(lines))
    colours = np.array(
        [[64, 128, 64], [128, 64, 128], [0, 0, 0], [64, 0, 128], [1, 2, 3], [0, 0, 0]], np.uint8
    )
    put("701_StillsRaw_full/0001TP_006690.png", picture)
    put("LabeledApproved_full/0001TP_006690_L.png", np.stack([colours] * 4))
    return path


@pytest.mark.usefixtures("original")
def test_original_release(tmp_path):
    assert detect_dataset(tmp_path) == "camvid"
    (sample,) = CamVidDataset(tmp_path)
    assert sample.name == "0001TP_006690"
    loaded = sample.load()
    assert loaded.labels[0].tolist() == [255, 0, 255, 13, 255, 255]
    assert loaded.anomaly_mask[0].tolist() == [1, 0, 255, 0, 255, 255]
    with pytest.raises(DatasetError, match="has no split 'val'"):
        CamVidDataset(tmp_path, split="val")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected lines of R G B NAME"),
        ("64 128 Animal", "expected lines of R G B NAME"),
        ("64 128 256 Animal", "a colour above 255"),
        ("1 2 3 Car\n1 2 3 Road", "one that stands twice"),
    ],
)
def test_faulty_colours(original, tmp_path, text, message):
    original.write_text(text)
    with pytest.raises(DatasetError, match=rf"label_colors\.txt: .*{message}"):
        CamVidDataset(tmp_path)


def test_errors(put, picture, tmp_path):
    put("images/a.png", picture)
    with pytest.raises(DatasetError, match=r"no folder labels; data set 'camvid' expects"):
        CamVidDataset(tmp_path)
    path = put("classes.json", {"one": "Road"})
    with pytest.raises(DatasetError, match=r"classes\.json: expected .* integer ids"):
        CamVidDataset(tmp_path)
    put("classes.json", {"0": "cat"})
    with pytest.raises(DatasetError, match="names no CamVid class"):
        CamVidDataset(tmp_path)
    path.write_text("[]")
    with pytest.raises(DatasetError, match="expected a JSON object"):
        CamVidDataset(tmp_path)


@pytest.mark.data
def test_real_sets(shared_data):
    assert len(CamVidDataset(shared_data / "camvid", "val")) == 101
    loaded = CamVidDataset(shared_data / "camvid", "val")[0].load()
    assert loaded.image.shape == (360, 480, 3)
    # A street scene: there is road in the lower half and none in the upper quarter.
    assert (loaded.labels[180:] == 0).mean() > 0.2
    assert not (loaded.labels[:90] == 0).any()

    full = CamVidDataset(shared_data / "camvid960")
    assert len(full) == 100
    classes = json.loads((shared_data / "camvid960" / "classes.json").read_text())
    void = next(int(i) for i, name in classes.items() if name == "Void")
    sample = full[0]
    assert (sample.anomaly_mask_table == 1).sum() == 4
    assert sample.anomaly_mask_table[void] == 255
    assert (sample.load().anomaly_mask == 1).any()

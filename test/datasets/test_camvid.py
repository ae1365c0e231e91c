from __future__ import annotations

import json

import numpy as np
import pytest

from anomaly_seg_ros.datasets import CamVidDataset
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

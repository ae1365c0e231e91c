# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from anomaly_seg_ros.datasets import detect_dataset
from anomaly_seg_ros.datasets.road_anomaly import RoadAnomalyDataset
from anomaly_seg_ros.errors import DatasetError, ImageError

LABELS = np.array([[0, 1, 2, 255, 0, 2]] * 4, np.uint8)


@pytest.mark.parametrize("suffix", ["png", "webp"])  # JPEG is lossy: png stands for it here
def test_official_tree(put, picture, tmp_path, suffix):
    for name in ("animals02_papigko", "animals01_calves"):
        put(f"frames/{name}.{suffix}", picture)
        put(f"frames/{name}.labels/labels_semantic.png", LABELS)
        put(f"frames/{name}.labels/labels_semantic_color.png", picture)
    put("frame_list.json", {})
    assert detect_dataset(tmp_path) == "road_anomaly"
    dataset = RoadAnomalyDataset(tmp_path)
    assert [x.name for x in dataset] == ["animals01_calves", "animals02_papigko"]
    loaded = dataset[0].load()
    assert loaded.anomaly_mask[0].tolist() == [0, 0, 1, 255, 0, 1]
    assert loaded.labels is None


def test_names_with_dots(put, picture, tmp_path):
    put("frames/obstacles02_v1.2.jpg", picture)
    put("frames/obstacles02_v1.2.labels/labels_semantic.png", LABELS)
    (sample,) = RoadAnomalyDataset(tmp_path)
    assert sample.name == "obstacles02_v1.2"
    assert (sample.load().anomaly_mask == 1).sum() == 8


def test_errors(put, picture, tmp_path):
    with pytest.raises(DatasetError, match=r"has no frames/NAME\.labels(.|\n)*ROOT/frames/NAME"):
        RoadAnomalyDataset(tmp_path)
    put("frames/a.jpg", picture)
    put("frames/a.labels/labels_semantic.png", np.full((4, 6), 3, np.uint8))
    with pytest.raises(ImageError, match="holds the value 3, which is no label of this data set"):
        RoadAnomalyDataset(tmp_path)[0].load()
    put("frames/b.jpg", picture)
    with pytest.raises(ImageError, match=r"b\.labels/labels_semantic\.png: no such file"):
        RoadAnomalyDataset(tmp_path)[1].load()

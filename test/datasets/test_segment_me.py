# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from anomaly_seg_ros.datasets import detect_dataset
from anomaly_seg_ros.datasets.segment_me import SegmentMeDataset
from anomaly_seg_ros.errors import DatasetError, ParameterError

MASK = np.array([[0, 1, 255, 0, 0, 1]] * 4, np.uint8)


def test_only_frames_with_masks(put, picture, tmp_path):
    put("images/validation_2.webp", picture)
    put("images/validation_1.png", picture)
    put("images/zion_01.png", picture)  # a test frame
    for i in (1, 2):
        put(f"labels_masks/validation_{i}_labels_semantic.png", MASK)
        put(f"labels_masks/validation_{i}_labels_semantic_color.png", picture)
    assert detect_dataset(tmp_path) == "segment_me_if_you_can"
    dataset = SegmentMeDataset(tmp_path)
    assert [x.name for x in dataset] == ["validation_1", "validation_2"]
    assert np.array_equal(dataset[1].load().anomaly_mask, MASK)


def names(root, split):
    return [x.name for x in SegmentMeDataset(root, split=split)]


def test_splits_of_the_obstacle_track(put, picture, tmp_path):
    """Names as in the benchmark's tracks.py: scenes of snow and night are no test frames."""
    scenes = (
        "curvy-street_bag_1",
        "driveway_3",
        "motorway_boot_6",
        "snowstorm1_00_16",
        "paving_9",
    )
    for name in (*scenes, "validation_1", "validation_18"):
        put(f"images/{name}.webp", picture)
        if name.startswith("validation"):
            put(f"labels_masks/{name}_labels_semantic.png", MASK)
    assert len(names(tmp_path, "all")) == 7
    assert names(tmp_path, "test") == ["curvy-street_bag_1", "motorway_boot_6", "paving_9"]
    assert names(tmp_path, "labelled") == ["validation_1", "validation_18"]
    track = SegmentMeDataset(tmp_path, split="test")
    assert track[0].load().anomaly_mask is None
    assert track.component_sizes == "obstacle_track"
    with pytest.raises(ParameterError, match="split: expected one of labelled, test, all"):
        SegmentMeDataset(tmp_path, split="train")


def test_splits_of_the_anomaly_track(put, picture, tmp_path):
    for name in ("validation0000", "validation0009", "zebra0001", "boat_trailer0000"):
        put(f"images/{name}.jpg", picture)
        if name.startswith("validation"):
            put(f"labels_masks/{name}_labels_semantic.png", MASK)
    assert names(tmp_path, None) == ["validation0000", "validation0009"]
    assert names(tmp_path, "test") == ["boat_trailer0000", "zebra0001"]
    assert SegmentMeDataset(tmp_path).component_sizes == "anomaly_track"


def test_errors(put, picture, tmp_path):
    put("images/a.png", picture)
    with pytest.raises(DatasetError, match=r"no folder labels_masks(.|\n)*NAME_labels_semantic"):
        SegmentMeDataset(tmp_path)
    (tmp_path / "labels_masks").mkdir()
    with pytest.raises(DatasetError, match="found no image"):
        SegmentMeDataset(tmp_path)

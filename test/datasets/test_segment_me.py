from __future__ import annotations

import numpy as np
import pytest

from anomaly_seg_ros.datasets import detect_dataset
from anomaly_seg_ros.datasets.segment_me import SegmentMeDataset
from anomaly_seg_ros.errors import DatasetError

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


def test_errors(put, picture, tmp_path):
    put("images/a.png", picture)
    with pytest.raises(DatasetError, match=r"no folder labels_masks(.|\n)*NAME_labels_semantic"):
        SegmentMeDataset(tmp_path)
    (tmp_path / "labels_masks").mkdir()
    with pytest.raises(DatasetError, match="found no image"):
        SegmentMeDataset(tmp_path)

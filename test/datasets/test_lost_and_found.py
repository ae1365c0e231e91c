# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from anomaly_seg_ros.datasets import CameraIntrinsics, LostAndFoundDataset
from anomaly_seg_ros.datasets.lost_and_found import NON_HAZARD_IDS, OBSTACLE_IDS
from anomaly_seg_ros.errors import DatasetError, ImageError, ParameterError

NAME = "04_Maurener_Weg_8_000000_000030"
FOLDER = "04_Maurener_Weg_8"
IDS = np.array([0, 1, 2, 17, 31, 38, 43] + [0] * 17, np.uint8).reshape(4, 6)


def test_table_covers_each_id_once():
    assert set(OBSTACLE_IDS) | set(NON_HAZARD_IDS) == set(range(2, 44))
    assert not set(OBSTACLE_IDS) & set(NON_HAZARD_IDS)


@pytest.mark.parametrize(("non_hazards", "value"), [("anomaly", 1), ("ignore", 255)])
def test_original_tree(put_frame, tmp_path, non_hazards, value):
    put_frame("gtCoarse", "test", FOLDER, NAME, IDS, stereo=True)
    (sample,) = LostAndFoundDataset(tmp_path, non_hazards=non_hazards)
    loaded = sample.load()
    assert sample.name == NAME
    assert loaded.anomaly_mask.ravel()[:7].tolist() == [255, 0, 1, 1, value, value, 1]
    assert loaded.labels is None
    assert (loaded.disparity == 2560).all()
    assert loaded.camera == CameraIntrinsics(2262.5, 2265.25, 1096.0, 513.5, 0.21)


def test_no_known(put_frame, tmp_path):
    """Frames as in road-anomaly-benchmark's LostAndFound-testNoKnown."""
    empty = np.zeros((4, 6), np.uint8)
    kept = (FOLDER, NAME)
    for folder, name, ids in (
        (*kept, IDS),
        (FOLDER, "04_Maurener_Weg_8_000000_000040", empty),
        ("15_Rechbergstr_Deckenpfronn", "15_Rechbergstr_Deckenpfronn_000000_000010", IDS),
        ("01_Hanns_Klemm_Str_45", "01_Hanns_Klemm_Str_45_000006_000010", IDS),
        ("01_Hanns_Klemm_Str_45", "01_Hanns_Klemm_Str_45_000007_000010", IDS),
        ("10_Schlossberg_9", "10_Schlossberg_9_000004_000010", IDS),
        ("10_Schlossberg_9", "10_Schlossberg_9_000003_000010", IDS),
    ):
        put_frame("gtCoarse", "test", folder, name, ids, stereo=True)
    assert len(LostAndFoundDataset(tmp_path)) == 7
    dataset = LostAndFoundDataset(tmp_path, no_known=True)
    assert [x.name for x in dataset] == [NAME, "10_Schlossberg_9_000003_000010"]
    loaded = dataset[0].load()
    assert loaded.camera is not None
    assert loaded.disparity is not None


def test_an_undefined_id_is_an_error(put_frame, tmp_path):
    put_frame("gtCoarse", "train", FOLDER, NAME, np.full((4, 6), 44, np.uint8))
    with pytest.raises(ImageError, match=r"gtCoarse_labelIds\.png: holds the value 44"):
        LostAndFoundDataset(tmp_path, split="train")[0].load()


def test_errors(put_frame, tmp_path):
    put_frame("gtCoarse", "train", FOLDER, NAME, IDS)
    with pytest.raises(DatasetError, match=r"no split 'test' \(found: train\)"):
        LostAndFoundDataset(tmp_path)
    with pytest.raises(ParameterError, match="non_hazards"):
        LostAndFoundDataset(tmp_path, non_hazards="drive over")
    with pytest.raises(ParameterError, match="no_known: expected true or false, got no"):
        LostAndFoundDataset(tmp_path, split="train", no_known="no")

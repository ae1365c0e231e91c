# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from anomaly_seg_ros.datasets import CameraIntrinsics, CityscapesDataset
from anomaly_seg_ros.errors import DatasetError, ImageError, ParameterError

# Ids 0 to 23 in one label image, so that every id's fate is seen.
IDS = np.arange(24, dtype=np.uint8).reshape(4, 6)
REST = np.array([24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 255] + [0] * 13, np.uint8).reshape(4, 6)


def test_label_ids_become_train_ids(put_frame, tmp_path):
    put_frame("gtFine", "val", "ulm", "ulm_000000_000019", IDS)
    put_frame("gtFine", "val", "aachen", "aachen_000001_000019", REST)
    rest, ids = CityscapesDataset(tmp_path)  # aachen comes before ulm
    assert rest.name == "aachen_000001_000019"
    expected = [255] * 24
    for label_id, train_id in zip(
        (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23), range(11), strict=True
    ):
        expected[label_id] = train_id
    assert ids.load().labels.ravel().tolist() == expected
    assert rest.load().labels.ravel()[:11].tolist() == [
        11,
        12,
        13,
        14,
        15,
        255,
        255,
        16,
        17,
        18,
        255,
    ]
    assert ids.load().anomaly_mask is None


def test_void_as_unknown(put_frame, tmp_path):
    put_frame("gtFine", "train", "a", "a_1", IDS)
    put_frame("gtFine", "train", "a", "a_2", REST)
    first, second = CityscapesDataset(tmp_path, split="train", void_as_unknown=True)
    mask = first.load().anomaly_mask.ravel()
    assert np.flatnonzero(mask == 1).tolist() == [4, 5, 6, 9, 10, 14, 15, 16, 18]
    assert np.flatnonzero(mask == 255).tolist() == [0, 1, 2, 3]
    second_mask = second.load().anomaly_mask.ravel()[:11].tolist()
    assert second_mask == [0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 255]  # caravan, trailer; licence plate


def test_a_switch_is_no_text(put_frame, tmp_path):
    put_frame("gtFine", "val", "a", "a_1", IDS)
    with pytest.raises(ParameterError, match="void_as_unknown: expected true or false, got no"):
        CityscapesDataset(tmp_path, void_as_unknown="no")


def test_names_are_unique(put_frame, tmp_path):
    put_frame("gtFine", "val", "a", "a_1", IDS)
    put_frame("gtFine", "val", "b", "a_1", IDS)
    with pytest.raises(DatasetError, match=r"val/a/a_1_left.* and .*val/b/a_1_left.* both 'a_1'"):
        CityscapesDataset(tmp_path)


def test_disparity_and_camera_are_used_where_present(put_frame, tmp_path):
    put_frame("gtFine", "val", "a", "a_1", IDS, stereo=True)
    put_frame("gtFine", "val", "a", "a_2", IDS)
    with_stereo, without = CityscapesDataset(tmp_path)
    loaded = with_stereo.load()
    assert loaded.camera == CameraIntrinsics(2262.5, 2265.25, 1096.0, 513.5, 0.21)
    assert loaded.disparity.dtype == np.uint16
    assert (loaded.disparity == 2559).all()
    assert without.load().disparity is None
    assert without.camera is None


def test_disparity_is_256_times_the_pixels(put_frame, put, tmp_path):
    """Stored is one more, and 0 where nothing was measured."""
    put_frame("gtFine", "val", "a", "a_1", IDS, stereo=True)
    stored = np.full((4, 6), 65535, np.uint16)
    stored[:, :3] = [0, 1, 257]
    put("disparity/val/a/a_1_disparity.png", stored)
    (sample,) = CityscapesDataset(tmp_path)
    assert sample.read_disparity()[0].tolist() == [0, 0, 256, 65534, 65534, 65534]


def test_errors_name_split_key_and_file(put_frame, put, tmp_path, camera_json):
    with pytest.raises(DatasetError, match=r"no split 'val' \(found: none\)(.|\n)*leftImg8bit"):
        CityscapesDataset(tmp_path)
    put_frame("gtFine", "val", "a", "a_1", IDS, stereo=True)
    with pytest.raises(DatasetError, match=r"no split 'test' \(found: val\)"):
        CityscapesDataset(tmp_path, split="test")
    camera = put("camera/val/a/a_1_camera.json", {**camera_json, "intrinsic": {"fx": "wide"}})
    with pytest.raises(DatasetError, match=r"a_1_camera\.json: key 'intrinsic\.fx' must be a num"):
        CityscapesDataset(tmp_path)
    camera.write_text("{")
    with pytest.raises(DatasetError, match="not valid JSON"):
        CityscapesDataset(tmp_path)
    put("camera/val/a/a_1_camera.json", camera_json)
    (tmp_path / "gtFine/val/a/a_1_gtFine_labelIds.png").unlink()
    with pytest.raises(ImageError, match=r"a_1_gtFine_labelIds\.png: no such file"):
        CityscapesDataset(tmp_path)[0].load()


@pytest.mark.data
def test_real_frames(shared_data):
    dataset = CityscapesDataset(shared_data / "cityscapes", "train", void_as_unknown=True)
    assert len(dataset) == 10
    loaded = dataset[0].load()
    assert loaded.image.shape == (1024, 2048, 3)
    assert set(np.unique(loaded.labels)) <= {*range(19), 255}
    # Every pixel is a class, an unknown, or ignored by both.
    assert ((loaded.anomaly_mask == 0) == (loaded.labels != 255)).all()
    assert (loaded.anomaly_mask == 1).any()

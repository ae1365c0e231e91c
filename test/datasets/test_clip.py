# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from anomaly_seg_ros.datasets import CameraIntrinsics, ClipDataset
from anomaly_seg_ros.errors import DatasetError

CAMERA = {
    "fx": 500, "fy": 501.5, "cx": 320, "cy": 180, "width": 6, "height": 4, "baseline_m": 0.3,
    "frame_rate": 15,
}  # fmt: skip


def put_clip(put, picture, count=2, disparity=True):
    put("camera.json", CAMERA)
    for i in range(count):
        put(f"images/{i:03}.png", picture)
        put(f"labels/{i:03}.png", np.full((4, 6), 7, np.uint8))
        put(f"anomaly_mask/{i:03}.png", np.full((4, 6), 1, np.uint8))
        if disparity:
            put(f"disparity/{i:03}.png", np.full((4, 6), 512, np.uint16))


@pytest.mark.parametrize("disparity", [True, False])
def test_all_ground_truth_is_read(put, picture, tmp_path, disparity):
    put_clip(put, picture, disparity=disparity)
    clip = ClipDataset(tmp_path)
    assert clip.frame_rate == 15
    assert [x.name for x in clip] == ["000", "001"]
    loaded = clip[1].load()
    assert (loaded.labels == 7).all()
    assert (loaded.anomaly_mask == 1).all()
    assert loaded.camera == CameraIntrinsics(500, 501.5, 320, 180, 0.3)
    assert (loaded.disparity == 512).all() if disparity else loaded.disparity is None


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("fx", None, "key 'fx' must be a number"),
        ("cy", True, "key 'cy' must be a number"),
        ("frame_rate", 0, "'frame_rate' must be positive"),
    ],
)
def test_faults_of_the_camera_file(put, picture, tmp_path, key, value, message):
    put_clip(put, picture)
    put("camera.json", {**CAMERA, key: value})
    with pytest.raises(DatasetError, match=message):
        ClipDataset(tmp_path)
    put("camera.json", {k: v for k, v in CAMERA.items() if k != key})
    with pytest.raises(DatasetError, match=f"key '{key}' is missing"):
        ClipDataset(tmp_path)


def test_wrong_tree(put, picture, tmp_path):
    put("images/000.png", picture)
    with pytest.raises(DatasetError, match=r"no folder labels(.|\n)*ROOT/camera\.json"):
        ClipDataset(tmp_path)

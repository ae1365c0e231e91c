# SPDX-License-Identifier: Apache-2.0
"""Samples to write, and foreign bags."""

from __future__ import annotations

import numpy as np
import pytest
from foreign_bag import ForeignBag
from rosbags.rosbag2 import StoragePlugin
from rosbags.typesys import Stores

from anomaly_seg_ros.datasets import CameraIntrinsics, LoadedSample

CAMERA = CameraIntrinsics(fx=500.0, fy=501.0, cx=16.5, cy=12.5, baseline_m=0.25)


@pytest.fixture
def samples() -> list[LoadedSample]:
    """Five full samples of 24x32 pixels with random content."""
    rng = np.random.default_rng(5)
    return [
        LoadedSample(
            name=f"street_{i}",
            image=rng.integers(0, 256, (24, 32, 3), np.uint8),
            anomaly_mask=rng.choice(np.array([0, 1, 255], np.uint8), (24, 32)),
            labels=rng.integers(0, 19, (24, 32), np.uint8),
            disparity=rng.integers(0, 65536, (24, 32), np.uint16),
            camera=CAMERA,
            fold=f"t{i % 2}",
        )
        for i in range(5)
    ]


@pytest.fixture
def foreign(tmp_path):
    """A factory of open foreign bags."""

    def make(store=Stores.ROS2_HUMBLE, plugin=StoragePlugin.SQLITE3) -> ForeignBag:
        return ForeignBag(tmp_path / "foreign", store, plugin)

    return make

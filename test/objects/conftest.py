# SPDX-License-Identifier: Apache-2.0
"""The demo clip with the exact objects that it shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anomaly_seg_ros.datasets.base import LoadedSample
from anomaly_seg_ros.datasets.clip import ClipDataset

CLIP = Path(__file__).resolve().parents[2] / "assets" / "demo_clip"


@pytest.fixture(scope="session")
def clip_camera() -> dict[str, float]:
    return json.loads((CLIP / "camera.json").read_text())


@pytest.fixture(scope="session")
def clip_frames() -> list[LoadedSample]:
    return [sample.load() for sample in ClipDataset(CLIP)]

# SPDX-License-Identifier: Apache-2.0
"""The committed demo clip: complete, consistent with itself, and small."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

CLIP = Path(__file__).resolve().parents[1] / "assets" / "demo_clip"
FRAMES = [f"{frame:03d}" for frame in range(40)]
MAPS = ("labels", "anomaly_mask", "disparity")
ROAD, BUILDING, VEGETATION, SKY, PERSON, CAR = 0, 2, 8, 10, 11, 13
SIZE_LIMIT = 8_000_000


def read(folder: str, name: str) -> np.ndarray:
    suffix = "jpg" if folder == "images" else "png"
    array = cv2.imread(str(CLIP / folder / f"{name}.{suffix}"), cv2.IMREAD_UNCHANGED)
    assert array is not None, f"{folder}/{name}.{suffix} cannot be read"
    return array


@pytest.fixture(scope="module")
def camera() -> dict[str, float]:
    return json.loads((CLIP / "camera.json").read_text())


def test_every_folder_holds_every_frame_and_nothing_else() -> None:
    for folder in ("images", *MAPS):
        assert sorted(path.stem for path in (CLIP / folder).iterdir()) == FRAMES, folder


def test_clip_stays_small() -> None:
    assert sum(path.stat().st_size for path in CLIP.rglob("*") if path.is_file()) < SIZE_LIMIT


def test_camera_describes_the_frames(camera: dict[str, float]) -> None:
    assert (camera["width"], camera["height"]) == (1024, 512)
    assert camera["fx"] == camera["fy"] > 0
    assert abs(camera["cx"] - camera["width"] / 2) <= 1
    assert abs(camera["cy"] - camera["height"] / 2) <= 1
    assert 0.1 < camera["baseline_m"] < 1.0
    assert camera["frame_rate"] == 10


@pytest.mark.parametrize("name", FRAMES)
def test_frame_agrees_with_itself(name: str, camera: dict[str, float]) -> None:
    shape = (camera["height"], camera["width"])
    image, labels = read("images", name), read("labels", name)
    mask, disparity = read("anomaly_mask", name), read("disparity", name)
    assert image.shape == (*shape, 3)
    assert labels.shape == mask.shape == disparity.shape == shape
    assert image.dtype == labels.dtype == mask.dtype == np.uint8
    assert disparity.dtype == np.uint16
    assert set(np.unique(labels)) <= {*range(19), 255}
    assert {0, 1} <= set(np.unique(mask)) <= {0, 1, 255}
    # A pixel has no class exactly where it is an anomaly or ignored.
    np.testing.assert_array_equal(labels == 255, mask != 0)
    assert not disparity[labels == SKY].any()
    assert disparity[labels == ROAD].all()


@pytest.mark.parametrize("name", FRAMES[::13])
def test_disparity_of_the_road_is_that_of_a_plane_under_the_camera(
    name: str, camera: dict[str, float]
) -> None:
    road, disparity = read("labels", name) == ROAD, read("disparity", name) / 256
    rows = np.flatnonzero(road.sum(axis=1) > 50)
    medians = np.array([np.median(disparity[row][road[row]]) for row in rows])
    assert (np.diff(medians) >= 0).all(), "the road must come nearer from row to row"
    # On a plane at height h under a level-rolled camera, disparity is linear in the row with the
    # slope cos(pitch) * baseline / h, and zero at the horizon.
    slope, offset = np.polyfit(rows, medians, 1)
    pitch = np.radians(camera["pitch_down_deg"])
    expected = camera["baseline_m"] / camera["height_m"] * np.cos(pitch)
    assert slope == pytest.approx(expected, rel=0.02)
    horizon = camera["cy"] - camera["fy"] * np.tan(pitch)
    assert -offset / slope == pytest.approx(horizon, abs=5)


def test_the_car_drives_towards_the_unknown_things() -> None:
    areas = [int((read("anomaly_mask", name) == 1).sum()) for name in FRAMES]
    assert min(areas) > 300
    assert areas[25] > 2 * areas[0]


def test_frames_differ_and_show_a_street() -> None:
    first, second = read("images", "000").astype(int), read("images", "001").astype(int)
    assert np.abs(first - second).mean() > 1
    labels = np.stack([read("labels", name) for name in FRAMES[::10]])
    for train_id, share in (
        (ROAD, 0.25),
        (BUILDING, 0.1),
        (VEGETATION, 0.05),
        (SKY, 0.01),
        (CAR, 0.01),
        (PERSON, 1e-3),
    ):
        assert (labels == train_id).mean() > share, train_id
    sky = np.stack([read("images", name) for name in FRAMES[::10]])[labels == SKY]
    assert sky.mean() > 150, "the sky is lit"

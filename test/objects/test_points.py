# SPDX-License-Identifier: Apache-2.0
"""Positions of unknown objects, beside geometry done another way and the demo clip's own."""

from __future__ import annotations

import math

import numpy as np
import pytest

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.objects.ground_plane import GroundPlane
from anomaly_seg_ros.objects.points import (
    POINTS_OF_AN_OBJECT,
    Pinhole,
    PointRule,
    Road,
    moved,
    points_at_depth,
    points_on_road,
    rotation_matrix,
    std_by_disparity,
)
from anomaly_seg_ros.objects.regions import Box, ObjectRule, UnknownObject, find_objects
from anomaly_seg_ros.objects.tracker import TrackedObject

CAMERA = Pinhole(1000.0, 900.0, 640.0, 360.0)
RULE = PointRule(1e3, row_std=1.0, pitch_std=math.radians(0.5), disparity_std=1.0)


def square(left: int, top: int, size: int, number: int = 7, score: float = 0.75) -> TrackedObject:
    box = Box(left, top, size, size)
    return TrackedObject(
        number, UnknownObject(box, size * size, score, score, np.ones((size, size), bool))
    )


def xyz(points: np.ndarray) -> np.ndarray:
    return np.stack([points[axis] for axis in "xyz"], axis=-1).astype(np.float64)


def on_road(column: float, row: float, height: float, pitch: float) -> np.ndarray:
    """Where a pixel's ray meets the road, by way of the road's frame: x right, y ahead, z up."""
    sideways = (column - CAMERA.cx) / CAMERA.fx
    below = (row - CAMERA.cy) / CAMERA.fy
    ahead = np.array([0, math.cos(pitch), -math.sin(pitch)])  # of the optical axis
    under = np.array([0, -math.sin(pitch), -math.cos(pitch)])  # of the image's columns
    ray = sideways * np.array([1.0, 0, 0]) + below * under + ahead
    hit = np.array([0, 0, height]) + ray * (height / -ray[2])
    relative = hit - [0, 0, height]
    return np.array([relative[0], relative @ under, relative @ ahead])


@pytest.mark.parametrize("pitch", [-0.02, 0.0, 0.1, 0.5])
def test_the_foot_is_where_its_ray_meets_the_road(pitch):
    thing = square(700, 480, 20)
    column, row = thing.unknown.foot
    points = xyz(points_on_road([thing], CAMERA, Road.below(1.4, pitch), RULE))
    expected = on_road(column, row, 1.4, pitch)
    lowest = points[points @ [0, math.cos(pitch), math.sin(pitch)] > 1.4 - 1e-4]
    assert len(lowest) == 20  # the whole lowest row, as its ends are on the same road
    np.testing.assert_allclose(lowest[:, 2], expected[2], rtol=1e-6)
    assert lowest[:, 0].min() < expected[0] < lowest[:, 0].max()
    # The same plane as the one that tells the distance of an object.
    plane = GroundPlane(CAMERA.fy, CAMERA.cy, 1.4, pitch)
    assert float(plane.distance(row)) == pytest.approx(expected[2], rel=1e-12)


def test_an_object_stands_upright_on_its_foot():
    pitch = 0.3
    points = xyz(points_on_road([square(500, 400, 40)], CAMERA, Road.below(2.0, pitch), RULE))
    ahead = points @ [0, -math.sin(pitch), math.cos(pitch)]
    np.testing.assert_allclose(ahead, ahead[0], rtol=1e-5)
    above = 2.0 - points @ [0, math.cos(pitch), math.sin(pitch)]
    assert above.min() == pytest.approx(0, abs=1e-5)
    assert above.max() > 0.05
    # Each point lies on the ray of a pixel of the object.
    column = CAMERA.cx + CAMERA.fx * points[:, 0] / points[:, 2]
    row = CAMERA.cy + CAMERA.fy * points[:, 1] / points[:, 2]
    np.testing.assert_allclose(column, column.round(), atol=1e-3)
    assert column.round().min() == 500
    assert (row.round().min() >= 400, row.round().max()) == (True, 439)


@pytest.mark.parametrize("row", [380, 420, 600])
def test_the_standard_deviation_is_that_of_many_draws(row):
    """Of the formula to first order, by drawing rows and pitches."""
    height, pitch = 1.3, 0.05
    rule = PointRule(1e3, row_std=0.5, pitch_std=math.radians(0.1), disparity_std=0.0)
    (told,) = np.unique(
        points_on_road([square(800, row - 9, 10)], CAMERA, Road.below(height, pitch), rule)[
            "range_std"
        ]
    )
    rng = np.random.default_rng(0)
    rows = row + rng.normal(0, rule.row_std, 20_000)
    pitches = pitch + rng.normal(0, rule.pitch_std, 20_000)
    below = (rows - CAMERA.cy) / CAMERA.fy
    stretch = height / (np.cos(pitches) * below + np.sin(pitches))
    length = np.sqrt(((804.5 - CAMERA.cx) / CAMERA.fx) ** 2 + below**2 + 1)
    assert told == pytest.approx((stretch * length).std(), rel=0.03)


def test_farther_points_are_less_certain_and_left_out_past_the_limit():
    near, far = square(600, 600, 20, 1), square(600, 380, 20, 2)
    road = Road.below(1.3, 0.0)
    points = points_on_road([near, far], CAMERA, road, RULE)
    std = {number: points["range_std"][points["id"] == number][0] for number in (1, 2)}
    assert std[2] > 10 * std[1] > 0
    kept = points_on_road([near, far], CAMERA, road, PointRule(20.0, 1.0, 0.01, 1.0))
    assert set(kept["id"]) == {1}
    assert (np.linalg.norm(xyz(kept), axis=1) <= 20).all()


def test_a_foot_on_the_horizon_has_no_place_on_the_road():
    road = Road.below(1.3, 0.0)
    assert len(points_on_road([square(600, 341, 20)], CAMERA, road, RULE)) == 0
    assert len(points_on_road([square(600, 100, 20)], CAMERA, road, RULE)) == 0
    assert len(points_on_road([], CAMERA, road, RULE)) == 0


def test_a_camera_that_is_rolled_sees_the_same_road_turned():
    """The pose of a camera in the road's frame; points there are at a height of 0."""
    to_optical = np.array([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]])  # REP 103: ahead, left, up
    # The angles by matrices, the rotation by the quaternion of the product of half angles.
    roll, pitch = 0.1, 0.2
    rolled = np.array(
        [[1, 0, 0], [0, math.cos(roll), -math.sin(roll)], [0, math.sin(roll), math.cos(roll)]]
    )
    pitched = np.array(
        [[math.cos(pitch), 0, math.sin(pitch)], [0, 1, 0], [-math.sin(pitch), 0, math.cos(pitch)]]
    )
    x, y = math.sin(roll / 2), math.sin(pitch / 2)
    w, v = math.cos(roll / 2), math.cos(pitch / 2)
    np.testing.assert_allclose(
        rotation_matrix(3 * x * v, 3 * w * y, -3 * x * y, 3 * w * v), pitched @ rolled, atol=1e-12
    )
    rotation, position = pitched @ rolled @ to_optical, np.array([0.5, 0.1, 1.3])
    thing = square(900, 500, 30)
    points = points_on_road([thing], CAMERA, Road.of_pose(rotation, position), RULE)
    there = xyz(moved(points, rotation, position))
    column, row = thing.unknown.foot
    ray = rotation @ CAMERA.rays(np.array([column]), np.array([row]))[0]
    hit = position + ray * (position[2] / -ray[2])
    assert np.linalg.norm(there - hit, axis=1).min() < 0.02  # between two pixels
    np.testing.assert_array_equal(points["id"], moved(points, rotation, position)["id"])
    with pytest.raises(ParameterError, match=r"above the road, not at a height of -1\.3 m"):
        Road.of_pose(rotation, -position)


def test_measured_depth_places_the_pixels_and_drops_what_is_behind():
    thing = square(600, 300, 14)
    depth = np.full((720, 1280), 50.0)
    depth[300:314, 600:612] = 8.0 + np.linspace(0, 0.1, 12)
    depth[305, 605] = np.nan
    points = points_at_depth([thing], CAMERA, lambda rows, columns: depth[rows, columns], RULE)
    assert len(points) == 14 * 12 - 1
    assert points["z"].max() < 8.2
    assert np.isnan(points["range_std"]).all()
    columns = CAMERA.cx + CAMERA.fx * points["x"] / points["z"]
    rows = CAMERA.cy + CAMERA.fy * points["y"] / points["z"]
    np.testing.assert_allclose(
        points["z"], depth[rows.round().astype(int), columns.round().astype(int)], rtol=1e-6
    )
    assert columns.max().round() == 611
    assert set(points["id"]) == {7}
    assert set(points["intensity"]) == {np.float32(0.75)}
    empty = points_at_depth([thing], CAMERA, lambda rows, _: np.full(len(rows), np.nan), RULE)
    assert len(empty) == 0


def test_disparities_are_less_certain_with_the_square_of_the_depth():
    rule, focal_baseline = PointRule(1e3, 9.0, 9.0, disparity_std=0.25), 220.0
    depths = np.array([5.0, 40.0])
    expected = [
        focal_baseline / (focal_baseline / depth - 1e-6) - depth for depth in depths
    ] / np.array(1e-6)
    np.testing.assert_allclose(
        std_by_disparity(focal_baseline, rule)(depths), 0.25 * expected, rtol=1e-4
    )


def test_large_objects_have_a_bounded_number_of_points_over_all_of_their_box():
    points = points_on_road([square(100, 400, 300)], CAMERA, Road.below(1.3, 0.1), RULE)
    assert POINTS_OF_AN_OBJECT <= len(points) < 1.2 * POINTS_OF_AN_OBJECT
    column = CAMERA.cx + CAMERA.fx * points["x"] / points["z"]
    assert (column.min(), column.max()) == pytest.approx((100, 399), abs=21)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_camera_without_focal_length_is_refused(value):
    with pytest.raises(ParameterError, match="camera: fy must be positive"):
        Pinhole(1000.0, value, 0.0, 0.0)


def errors_on_the_clip(clip_frames, clip_camera, pitch_error=0.0):
    """(exact distance, error of the road's, told standard deviation, error by disparity)."""
    camera = Pinhole(*(clip_camera[name] for name in ("fx", "fy", "cx", "cy")))
    pitch = math.radians(clip_camera["pitch_down_deg"] + pitch_error)
    road = Road.below(clip_camera["height_m"], pitch)
    focal_baseline = clip_camera["fx"] * clip_camera["baseline_m"]
    rows = []
    for frame in clip_frames:
        score = (frame.anomaly_mask == 1).astype(np.float32)
        with np.errstate(divide="ignore"):
            exact = focal_baseline / (frame.disparity / 256.0)
        exact[frame.disparity == 0] = np.nan
        for number, unknown in enumerate(find_objects(score, ObjectRule(min_area=60)), 1):
            tracked = [TrackedObject(number, unknown)]
            truth = np.nanmedian(exact[unknown.box.slices][unknown.mask])
            by_foot = points_on_road(tracked, camera, road, RULE)
            by_depth = points_at_depth(tracked, camera, lambda r, c, e=exact: e[r, c], RULE)
            if len(by_foot):
                rows.append(
                    (
                        truth,
                        np.median(by_foot["z"]) - truth,
                        by_foot["range_std"][0],
                        np.median(by_depth["z"]) - truth,
                    )
                )
    return np.array(rows)


def test_objects_of_the_demo_clip_are_where_its_exact_depth_says(clip_frames, clip_camera):
    truth, error, _, by_depth = errors_on_the_clip(clip_frames, clip_camera).T
    assert len(truth) > 60
    assert np.abs(by_depth / truth).max() < 0.02
    near = truth < 20
    assert np.median(np.abs(error[near] / truth[near])) < 0.05
    assert np.median(np.abs(error / truth)) < 0.1


def test_an_error_of_the_pitch_stays_within_what_is_told(clip_frames, clip_camera):
    """Half a degree off, which is one told standard deviation."""
    truth, error, std, _ = errors_on_the_clip(clip_frames, clip_camera, 0.5).T
    near = truth < 20
    assert np.mean(np.abs(error[near]) < 2 * std[near]) > 0.95

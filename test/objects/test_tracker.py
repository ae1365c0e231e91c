# SPDX-License-Identifier: Apache-2.0
"""Ids of the objects of the demo clip, whose places in the world tell which is which."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from anomaly_seg_ros.datasets.base import LoadedSample
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.objects.regions import Box, ObjectRule, UnknownObject, find_objects
from anomaly_seg_ros.objects.tracker import Tracker, TrackRule, assign, diou


def at(left: int, top: int = 50, width: int = 20, height: int = 20) -> UnknownObject:
    mask = np.ones((height, width), np.bool_)
    return UnknownObject(Box(left, top, width, height), mask.size, 0.9, 0.9, mask)


def ids(tracker: Tracker, seconds: float, *objects: UnknownObject) -> list[tuple[int, int]]:
    """(id, left) of each object with an id."""
    return [(t.id, t.unknown.box.left) for t in tracker.update(objects, seconds)]


def place(unknown: UnknownObject, frame: LoadedSample, index: int, speed: float) -> np.ndarray:
    """(lateral, along the road) metres of an object of the clip, from its exact disparity."""
    camera, (rows, columns) = frame.camera, unknown.box.slices
    disparity = np.median(frame.disparity[rows, columns][unknown.mask]) / 256
    depth = camera.fx * camera.baseline_m / disparity
    x = (unknown.box.left + unknown.box.width / 2 - camera.cx) * depth / camera.fx
    return np.array([x, depth + speed * index / 10])


def things(
    frames: list[LoadedSample], camera: dict[str, float]
) -> list[tuple[list[UnknownObject], list[int]]]:
    """The objects of each frame of the clip, and which thing in the world each of them is."""
    rule, world, result = ObjectRule(min_area=60), [], []
    for index, frame in enumerate(frames):
        score = (frame.anomaly_mask == 1).astype(np.float32)
        objects, owners = find_objects(score, rule), []
        for unknown in objects:
            here = place(unknown, frame, index, camera["speed_mps"])
            distances = [np.abs(here - there).max() for there in world]
            if not distances or min(distances) > 2.0:
                world.append(here)
                distances.append(0.0)
            owners.append(int(np.argmin(distances)))
        result.append((objects, owners))
    return result


@pytest.mark.parametrize("step", [1, 2, 3])
def test_things_of_the_clip_keep_their_ids(
    clip_frames: list[LoadedSample], clip_camera: dict[str, float], step: int
) -> None:
    """From frame 28 on the deer stands behind the box, and both are one region."""
    tracker, owners, frames = Tracker(), {}, {}
    waited = 0
    for index, (objects, names) in list(enumerate(things(clip_frames, clip_camera)))[::step]:
        assert len(set(names)) == len(names) == (3 if index < 28 else 2 if index < 38 else 1)
        tracked = {id(t.unknown): t.id for t in tracker.update(objects[::-1], index / 10)}
        waited += len(objects) - len(tracked)
        for unknown, name in zip(objects, names, strict=True):
            if number := tracked.get(id(unknown)):
                owners.setdefault(number, set()).add(name)
                frames[number] = index
    assert waited == 3, "each for its birth, and never again"
    assert sorted(owners.values(), key=min) == [{0}, {1}, {2}]
    assert sorted(frames.values())[1:] > [30, 37 - step]


def test_a_thing_gets_its_id_at_birth_and_keeps_it_until_death() -> None:
    tracker = Tracker(TrackRule(birth=3, death_s=0.25))
    found = [ids(tracker, t / 10, at(10 + 5 * t)) for t in range(4)]
    assert found == [[], [], [(1, 20)], [(1, 25)]]
    assert ids(tracker, 0.4) == ids(tracker, 0.5) == []
    # Unseen for two frames, but not beyond death: the same, where its velocity takes it.
    assert ids(tracker, 0.55, at(39)) == [(1, 39)]
    # A pause without any frame is no sign of death: one frame without it is.
    assert ids(tracker, 0.95, at(50)) == [(1, 50)]
    assert ids(tracker, 1.25) == ids(tracker, 1.3, at(50)) == ids(tracker, 1.35, at(50)) == []
    assert ids(tracker, 1.4, at(50)) == [(2, 50)]


def test_a_thing_that_is_gone_before_its_birth_starts_over() -> None:
    tracker = Tracker(TrackRule(birth=2))
    assert ids(tracker, 0.0, at(10)) == ids(tracker, 0.1) == ids(tracker, 0.2, at(10)) == []
    assert ids(tracker, 0.3, at(10)) == [(1, 10)]


def test_things_that_pass_each_other_keep_their_ids() -> None:
    tracker = Tracker(TrackRule(birth=1))
    for t in range(12):
        left, right = at(10 * t), at(110 - 10 * t, top=55)
        found = dict(ids(tracker, t / 10, *((left, right) if t % 2 else (right, left))))
        if t == 0:
            names = dict(found)
        assert found == {n: (10 * t if x == 0 else 110 - 10 * t) for n, x in names.items()}


def test_time_that_goes_back_ends_all_tracks_and_time_that_stands_still_none() -> None:
    tracker = Tracker(TrackRule(birth=1))
    assert ids(tracker, 5.0, at(10)) == [(1, 10)]
    assert ids(tracker, 5.0, at(12)) == [(1, 12)]
    assert ids(tracker, 1.0, at(12)) == [(2, 12)]
    assert ids(tracker, 3.0, at(12)) == [(2, 12)]
    assert ids(tracker, 5.1, at(12)) == [(3, 12)]  # too long without any frame


@pytest.mark.parametrize(("gap", "same"), [(18, True), (22, False)])
def test_distance_decides_where_boxes_do_not_overlap(gap: int, same: bool) -> None:
    tracker = Tracker(TrackRule(birth=1, min_diou=-0.2))
    ids(tracker, 0.0, at(0))
    assert (ids(tracker, 0.1, at(gap))[0][0] == 1) is same


def test_diou_worked_out_by_hand() -> None:
    boxes = np.array([[0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 4.0, 2.0], [1.0, 0.0, 3.0, 2.0]])
    found = diou(boxes[:1], boxes)
    # Itself; side by side, d^2 = 4 and c^2 = 16 + 4; half overlapping, 1/3 - 1 / (9 + 4).
    np.testing.assert_allclose(found, [[1.0, -0.2, 1 / 3 - 1 / 13]])
    np.testing.assert_allclose(diou(boxes, boxes), diou(boxes, boxes).T)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_assignment_is_optimal_where_things_are_apart(seed: int) -> None:
    """Nine things, each moved by less than half of the distance to the next."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(3), np.arange(3)), -1).reshape(-1, 2) * 40.0
    before = np.concatenate([grid, grid + 20], 1)
    after = (before + np.tile(rng.uniform(-9, 9, (9, 2)), 2))[rng.permutation(9)]
    similarity = diou(before, after)
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    assert sorted(assign(similarity, -1.0)) == list(zip(rows, columns, strict=True))


def test_bad_rules_are_named() -> None:
    for name, value in (("min_diou", np.nan), ("birth", 0), ("death_s", -1.0)):
        with pytest.raises(ParameterError, match=name):
            TrackRule(**{name: value})

# SPDX-License-Identifier: Apache-2.0
"""Unknown objects of a frame against scikit-image."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.measure import label, regionprops

from anomaly_seg_ros.errors import ImageError, ParameterError
from anomaly_seg_ros.objects.ground_plane import GroundPlane
from anomaly_seg_ros.objects.regions import ObjectRule, UnknownObject, find_objects, paint

LEVELS = [0.0, 0.25, 0.45, 0.5, 0.75, np.nan]
MAPS = arrays(np.float32, (9, 11), elements=st.sampled_from([0.0, *LEVELS]))
EVERY_PIXEL = ObjectRule(min_area=1, limit=10_000)


def reference(score: np.ndarray, rule: ObjectRule) -> dict[tuple[int, ...], tuple]:
    """Figures of each object by its box, from scikit-image and in float64."""
    found = {}
    regions = label(score >= np.float32(rule.low_threshold), connectivity=2)
    for region in regionprops(regions, intensity_image=score.astype(np.float64)):
        peak, mean = region.intensity_max, region.intensity_mean
        if peak < rule.threshold or region.area < rule.min_area or mean < rule.min_score:
            continue
        top, left, bottom, right = region.bbox
        box = (left, top, right - left, bottom - top)
        found[(*box, region.area)] = (mean, peak, region.image)
    return found


def check(score: np.ndarray, rule: ObjectRule) -> list[UnknownObject]:
    objects, expected = find_objects(score, rule), reference(score, rule)
    assert sorted((*o.box, o.area) for o in objects) == sorted(expected)
    for unknown in objects:
        mean, peak, mask = expected[(*unknown.box, unknown.area)]
        assert (unknown.score, unknown.peak) == pytest.approx((mean, peak), abs=1e-7)
        np.testing.assert_array_equal(unknown.mask, mask)
    assert all(a.score >= b.score for a, b in pairwise(objects))
    return objects


@given(MAPS, st.sampled_from([EVERY_PIXEL, ObjectRule(min_area=3), ObjectRule(min_score=0.55)]))
@settings(max_examples=300, deadline=None)
def test_agrees_with_scikit_image(score: np.ndarray, rule: ObjectRule) -> None:
    # In a frame this small two regions may share box and area: as dictionary keys they would
    # hide one another.
    regions = regionprops(label(score >= np.float32(rule.low_threshold), connectivity=2))
    keys = [(region.bbox, region.area) for region in regions]
    if len(set(keys)) == len(keys):
        check(score, rule)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_scikit_image_on_a_smooth_map(seed: int) -> None:
    """With nested regions, holes and regions on the borders."""
    coarse = np.random.default_rng(seed).random((24, 40)).astype(np.float32)
    score = cv2.resize(coarse, (320, 192), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    for rule in (ObjectRule(0.7, 0.6, 50), ObjectRule(0.6, 0.55, 1), ObjectRule(0.9, 0.9, 10)):
        assert len(check(score, rule)) > 5, rule


def test_a_ring_and_what_it_surrounds_are_two_objects() -> None:
    score = np.zeros((40, 40), np.float32)
    cv2.circle(score, (20, 20), 15, 0.8, 3)
    cv2.circle(score, (20, 20), 5, 0.6, cv2.FILLED)
    ring, disc = find_objects(score, ObjectRule(min_area=1))
    assert (ring.score, disc.score) == pytest.approx((0.8, 0.6))
    assert not (paint([ring], score.shape) & paint([disc], score.shape)).any()
    assert disc.box == (15, 15, 11, 11)


def test_hysteresis_grows_from_seeds_only() -> None:
    score = np.zeros((20, 30), np.float32)
    score[2:6, 2:10], score[3, 3] = 0.45, 0.5  # a seed in a weaker region
    score[12:18, 12:20] = 0.49  # a weaker region alone
    (found,) = find_objects(score, ObjectRule(0.5, 0.45, 1))
    assert (found.box, found.area) == ((2, 2, 8, 4), 32)
    assert find_objects(score, ObjectRule(0.5, 0.5, 1))[0].area == 1
    # Below the low threshold, the threshold itself bounds the region.
    assert len(find_objects(score, ObjectRule(0.4, 0.9, 1))) == 2


def test_objects_tell_what_they_were_mistaken_for_and_where_they_stand() -> None:
    score, labels = np.zeros((10, 12), np.float32), np.zeros((10, 12), np.uint8)
    score[2:5, 3:7], score[5, 5:8] = 0.9, 0.9
    labels[2:5, 3:6], labels[5] = 13, 255
    (found,) = find_objects(score, ObjectRule(min_area=1), labels)
    assert (found.class_id, found.class_share) == (13, pytest.approx(9 / 15))
    assert found.foot == (6.0, 5.0)
    (found,) = find_objects(score, ObjectRule(min_area=1))
    assert (found.class_id, found.class_share, found.distance_m) == (255, 0.0, None)


def test_small_objects_are_judged_by_their_size_in_metres() -> None:
    ground = GroundPlane(fy=100.0, cy=50.0, height_m=1.0)
    score = np.zeros((100, 100), np.float32)
    score[60:71, 10:21] = 0.9  # foot at row 70: 5 m, 0.55 m wide
    score[90:101, 60:71] = 0.9  # foot at row 99: 2.04 m; 10 rows are seen
    score[20:31, 60:71] = 0.9  # above the horizon: no distance
    everything = find_objects(score, ObjectRule(min_area=1), ground=ground)
    assert len(everything) == 3
    near, far, above = sorted(everything, key=lambda o: -o.box.top)
    assert (near.distance_m, far.distance_m) == pytest.approx((100 / 49, 5.0))
    assert above.distance_m is None
    kept = find_objects(score, ObjectRule(min_area=1, min_size_m=0.5), ground=ground)
    assert sorted(o.box.top for o in kept) == [20, 60]
    # Without a camera the size in metres is not judged.
    assert len(find_objects(score, ObjectRule(min_area=1, min_size_m=0.5))) == 3


def test_highest_scores_are_kept() -> None:
    score = np.zeros((10, 40), np.float32)
    for column, value in enumerate((0.6, 0.9, 0.7, 0.9)):
        score[4:6, 10 * column : 10 * column + 3] = value
    found = find_objects(score, ObjectRule(min_area=1, limit=3))
    assert [o.box.left for o in found] == [10, 30, 20]
    numbers = paint(found, score.shape)
    assert [int(numbers[4, 10 * c]) for c in range(4)] == [0, 1, 3, 2]


@pytest.mark.parametrize("score", [np.zeros((4, 5), np.float32), np.ones((4, 5), np.float32)])
def test_nothing_and_everything(score: np.ndarray) -> None:
    found = find_objects(score, EVERY_PIXEL)
    assert [o.box for o in found] == ([(0, 0, 5, 4)] if score.any() else [])


def test_bad_input_is_named() -> None:
    score = np.zeros((4, 5), np.float32)
    with pytest.raises(ImageError, match=r"score is \(4, 5\), labels are \(5, 4\)"):
        find_objects(score, ObjectRule(), np.zeros((5, 4), np.uint8))
    with pytest.raises(ImageError, match=r"score is \(1, 4, 5\); expected"):
        find_objects(score[None], ObjectRule())
    for name, value in (
        ("threshold", 1.5),
        ("low_threshold", np.nan),
        ("min_score", -0.1),
        ("min_size_m", -1.0),
        ("min_area", 0),
        ("limit", 0),
    ):
        with pytest.raises(ParameterError, match=name):
            ObjectRule(**{name: value})


def test_ground_plane_agrees_with_the_clip(clip_camera: dict[str, float]) -> None:
    """Disparity on a plane is linear in the row: see test_demo_clip.py."""
    pitch = np.radians(clip_camera["pitch_down_deg"])
    ground = GroundPlane(
        clip_camera["fy"], clip_camera["cy"], clip_camera["height_m"], float(pitch)
    )
    rows = np.array([300, 400, 511])
    # A ray through the row, turned by the pitch, meets the plane at the height.
    angle = pitch + np.arctan((rows - ground.cy) / ground.fy)
    along_ray = ground.height_m / np.sin(angle)
    np.testing.assert_allclose(ground.distance(rows), along_ray * np.cos(angle - pitch))
    horizon = ground.cy - ground.fy * np.tan(pitch)
    assert ground.distance_or_none(horizon - 1) is None
    assert ground.distance_or_none(horizon + 1) > 1000
    for name in ("fy", "height_m", "pitch_down"):
        with pytest.raises(ParameterError, match=name):
            GroundPlane(**{**vars(ground), name: np.nan})

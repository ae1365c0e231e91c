# SPDX-License-Identifier: Apache-2.0
"""Figures by distance against selecting the pixels of each bin by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import average_precision_score

from anomaly_seg_ros.errors import ImageError, ParameterError
from anomaly_seg_ros.metrics.by_distance import (
    DISTANCE_EDGES,
    DistanceScores,
    distance_from_disparity,
    fill_objects,
)

Frame = tuple[np.ndarray, np.ndarray, np.ndarray]  # score, mask, distance


def random_frame(seed: int, size: tuple[int, int] = (80, 90)) -> Frame:
    rng = np.random.default_rng(seed)
    mask = rng.choice([0, 1, 255], size, p=[0.8, 0.1, 0.1]).astype(np.uint8)
    score = (rng.normal(size=size) + (mask == 1)).astype(np.float32)
    distance = rng.uniform(0, 60, size)
    distance[rng.random(size) < 0.15] = np.nan
    return score, mask, distance


def collect(*frames: Frame, **options: object) -> DistanceScores:
    scores = DistanceScores(**options)
    for frame in frames:
        scores.update(*frame)
    return scores


def same(left: DistanceScores, right: DistanceScores) -> bool:
    """Equality of all figures to the last bit, where NaN equals NaN."""
    return repr(left.compute()) == repr(right.compute())


def test_default_bins_are_five_metres_from_five_to_fifty() -> None:
    assert DISTANCE_EDGES == (5, 10, 15, 20, 25, 30, 35, 40, 45, 50)


def test_each_bin_pools_its_pixels_over_frames() -> None:
    frames = [random_frame(1), random_frame(2, (40, 30))]
    metrics = collect(*frames).compute()
    score, mask, distance = (
        np.concatenate([frame[i].ravel() for frame in frames]) for i in range(3)
    )
    assert len(metrics.bins) == 9
    for figures, low in zip(metrics.bins, range(5, 50, 5), strict=True):
        inside = (distance >= low) & (distance < low + 5) & (mask != 255)
        assert figures.positives == (mask[inside] == 1).sum() > 0
        assert figures.negatives == (mask[inside] == 0).sum()
        expected = average_precision_score(mask[inside], score[inside])
        assert pytest.approx(expected, abs=1e-12) == figures.AP
        cut = np.sort(score[inside & (mask == 1)])[::-1]
        cut = cut[int(np.ceil(0.95 * cut.size)) - 1]
        assert pytest.approx((score[inside & (mask == 0)] >= cut).mean()) == figures.FPR95


def test_every_labelled_pixel_is_counted_once() -> None:
    _, mask, _ = frame = random_frame(3)
    metrics = collect(frame).compute()
    for label, kind, total in ((0, "in_distribution", "negatives"), (1, "anomalous", "positives")):
        binned = sum(getattr(figures, total) for figures in metrics.bins)
        left_out = getattr(metrics.unmeasured, kind) + getattr(metrics.out_of_range, kind)
        assert binned + left_out == (mask == label).sum()
    assert metrics.unmeasured.anomalous == (np.isnan(frame[2]) & (mask == 1)).sum()


def test_a_bin_holds_its_lower_end_and_not_its_upper_one() -> None:
    distance = np.array([[4.999, 5.0, 9.999, 10.0, 15.0, 49.999, 50.0, np.inf, np.nan]])
    mask = np.zeros(distance.shape, np.uint8)
    metrics = collect((np.zeros(distance.shape, np.float32), mask, distance)).compute()
    assert [figures.negatives for figures in metrics.bins] == [2, 1, 1, 0, 0, 0, 0, 0, 1]
    assert metrics.out_of_range.in_distribution == 3
    assert metrics.unmeasured.in_distribution == 1


def test_distance_is_baseline_times_focal_over_disparity() -> None:
    # 2300 pixels, 21 cm: an object 20 m away is seen 24 pixels apart.
    distance = distance_from_disparity(np.array([[24.0, 48.0, 0.0, -1.0, np.nan]]), 2300.0, 0.21)
    np.testing.assert_allclose(distance, [[20.125, 10.0625, np.nan, np.nan, np.nan]])
    whole = distance_from_disparity(np.array([[3]], np.uint16), 30, 0.5)
    assert whole.tolist() == [[5.0]]


@pytest.mark.parametrize("arguments", [(0.0, 0.2), (2300.0, -0.2), (np.nan, 0.2), (np.inf, 1)])
def test_a_camera_needs_a_focal_length_and_a_baseline(arguments: tuple[float, float]) -> None:
    with pytest.raises(ParameterError, match="must be positive"):
        distance_from_disparity(np.ones((2, 2)), *arguments)


@pytest.mark.parametrize("seed", range(5))
def test_objects_are_filled_with_their_median(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = (rng.random((12, 14)) < 0.3).astype(np.uint8)
    mask[0] = 255
    distance = rng.uniform(1, 60, mask.shape)
    distance[rng.random(mask.shape) < 0.5] = np.nan
    before = distance.copy()
    filled = fill_objects(distance, mask)
    np.testing.assert_array_equal(distance, before)
    expected = distance.copy()
    objects, count = ndimage.label(mask == 1, np.ones((3, 3)))
    assert count > 3
    for i in range(1, count + 1):
        values = distance[(objects == i) & ~np.isnan(distance)]
        if values.size:
            expected[(objects == i) & np.isnan(distance)] = np.median(values)
    np.testing.assert_allclose(filled, expected, rtol=1e-15)
    assert np.isnan(filled).any()


def test_object_median_is_an_option() -> None:
    frame = random_frame(5)
    dropped, filled = collect(frame).compute(), collect(frame, object_median=True).compute()
    assert filled.unmeasured.anomalous < dropped.unmeasured.anomalous
    assert filled.unmeasured.in_distribution == dropped.unmeasured.in_distribution
    score, mask, distance = frame
    by_hand = collect((score, mask, fill_objects(distance, mask))).compute()
    assert repr(by_hand) == repr(filled)


def test_an_empty_bin_is_nan_with_a_reason() -> None:
    score, mask, distance = random_frame(6)
    distance[distance >= 45] = np.nan
    last = collect((score, mask, distance)).compute().bins[-1]
    assert np.isnan(last.AP)
    assert "no anomalous" in last.note


@given(st.permutations(range(4)), st.integers(0, 4), st.booleans())
@settings(max_examples=12, deadline=None)
def test_order_and_sharding_do_not_matter(order: list[int], split: int, median: bool) -> None:
    frames = [random_frame(seed, (20, 25)) for seed in range(4)]
    options = {"edges_m": (5, 20, 45), "object_median": median}
    left = collect(*(frames[i] for i in order[:split]), **options)
    right = collect(*(frames[i] for i in order[split:]), **options)
    left.merge(DistanceScores.from_state(right.state()))
    assert same(left, collect(*frames, **options))


def test_state_is_arrays_of_numbers() -> None:
    scores = collect(random_frame(7), edges_m=(0, 7.5, 40), object_median=True)
    state = scores.state()
    assert all(array.dtype.kind in "fiub" for array in state.values())
    again = DistanceScores.from_state(state)
    assert (again.edges_m, again.object_median) == ((0, 7.5, 40), True)
    assert same(again, scores)


def test_refuses_what_does_not_fit() -> None:
    score, mask, distance = random_frame(8)
    with pytest.raises(ImageError, match=r"frame 'a': score is .* distance is \(79, 90\)"):
        collect().update(score, mask, distance[1:], "a")
    with pytest.raises(ParameterError, match="edges_m must be two or more rising"):
        DistanceScores((5, 5))
    with pytest.raises(ParameterError, match="edges_m"):
        DistanceScores((5,))
    with pytest.raises(ValueError, match="cannot merge bins"):
        collect().merge(DistanceScores((1, 2)))

# SPDX-License-Identifier: Apache-2.0
"""Component metrics against sets of pixels, by the definitions of the paper."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anomaly_seg_ros.errors import ImageError
from anomaly_seg_ros.metrics.components import (
    ANOMALY_TRACK,
    OBSTACLE_TRACK,
    THRESHOLDS,
    ComponentMetrics,
    ComponentScores,
    MinimumSizes,
    label_components,
)

Pixel = tuple[int, int]

SMALL = MinimumSizes(predicted=3, target=2)
MASKS = arrays(np.uint8, (9, 11), elements=st.sampled_from([0, 0, 0, 1, 1, 255, 2]))
SCORES = arrays(np.float32, (9, 11), elements=st.sampled_from([0.0, 0.0, 1.0]))


def components(pixels: set[Pixel]) -> list[set[Pixel]]:
    """8-connected components by walking from pixel to pixel."""
    left, found = set(pixels), []
    while left:
        component, border = set(), [left.pop()]
        while border:
            y, x = border.pop()
            component.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            border += near
        found.append(component)
    return found


def pixels_of(picture: np.ndarray) -> set[Pixel]:
    return {(int(y), int(x)) for y, x in np.argwhere(picture)}


def reference(
    score: np.ndarray, mask: np.ndarray, sizes: MinimumSizes
) -> tuple[list[float], list[float]]:
    """(sIoU of each ground-truth component, PPV of each prediction)."""
    targets = components(pixels_of(mask == 1))
    ignored = pixels_of((mask != 0) & (mask != 1))
    predicted = components(pixels_of(score >= 0.5) - ignored)
    for target in targets:
        if len(target) < sizes.target:
            ignored |= target
    targets = [target for target in targets if len(target) >= sizes.target]
    predicted = [p - ignored for p in predicted if len(p) >= sizes.predicted]
    everything = set().union(*targets)
    siou = []
    for target in targets:
        touching = set().union(*(p for p in predicted if p & target))
        siou.append(len(touching & target) / len(target | (touching - (everything - target))))
    return siou, [len(p & everything) / len(p) for p in predicted if p]


def collect(
    *frames: tuple[np.ndarray, np.ndarray], sizes: MinimumSizes = SMALL
) -> ComponentScores:
    scores = ComponentScores(0.5, sizes)
    for score, mask in frames:
        scores.update(score, mask)
    return scores


def same(left: ComponentMetrics, right: ComponentMetrics) -> bool:
    """Equality to the last bit, where NaN equals NaN."""
    return repr(left) == repr(right)


def random_frame(seed: int, size: tuple[int, int] = (60, 80)) -> tuple[np.ndarray, np.ndarray]:
    """Blobs of ground truth with predictions that are shifted copies plus others."""
    rng = np.random.default_rng(seed)
    mask, score = np.zeros(size, np.uint8), np.zeros(size, np.float32)
    for picture, count in ((mask, 9), (score, 6)):
        for _ in range(count):
            y, x = rng.integers(0, size[0] - 4), rng.integers(0, size[1] - 4)
            picture[y : y + rng.integers(1, 12), x : x + rng.integers(1, 12)] = 1
    score[2:] = np.maximum(score[2:], mask[:-2] * (rng.random((size[0] - 2, size[1])) < 0.8))
    mask[:, : size[1] // 10] = 255
    return score, mask


@given(SCORES, MASKS, st.sampled_from([SMALL, MinimumSizes(1, 1), MinimumSizes(0, 0)]))
@settings(max_examples=300, deadline=None)
def test_agrees_with_sets_of_pixels(
    score: np.ndarray, mask: np.ndarray, sizes: MinimumSizes
) -> None:
    frame = ComponentScores(0.5, sizes).update(score, mask)
    siou, ppv = reference(score, mask, sizes)
    assert sorted(frame.siou) == sorted(siou)
    assert sorted(frame.ppv) == sorted(ppv)


@pytest.mark.parametrize("sizes", [OBSTACLE_TRACK, MinimumSizes(20, 5), MinimumSizes(1, 1)])
def test_pools_counts_over_frames(sizes: MinimumSizes) -> None:
    frames = [random_frame(seed) for seed in range(6)]
    metrics = collect(*frames, sizes=sizes).compute()
    siou, ppv = [], []
    for frame in frames:
        in_frame = reference(*frame, sizes)
        siou += in_frame[0]
        ppv += in_frame[1]
    assert len(siou) > 10
    f1 = []
    for i, t in enumerate(THRESHOLDS):
        tp, fp = sum(s >= t for s in siou), sum(p < t for p in ppv)
        assert metrics.true_positives[i] == tp
        assert metrics.false_negatives[i] == len(siou) - tp
        assert metrics.false_positives[i] == fp
        f1.append(2 * tp / (tp + len(siou) + fp))
    assert metrics.f1 == pytest.approx(f1, abs=1e-15)
    assert pytest.approx(np.mean(f1), abs=1e-15) == metrics.F1
    assert pytest.approx(np.mean(siou), abs=1e-12) == metrics.sIoU
    assert pytest.approx(np.mean(ppv), abs=1e-12) == metrics.PPV
    assert (metrics.targets, metrics.predictions) == (len(siou), len(ppv))


def test_one_object_in_two_pieces_and_two_objects_in_one_piece() -> None:
    mask = np.zeros((6, 20), np.uint8)
    mask[1:3, 1:9] = 1  # 16 pixels, covered by two pieces of 6
    mask[4, 11:15] = 1  # two objects of 4 under one piece of 9
    mask[4, 16:20] = 1
    score = np.zeros(mask.shape, np.float32)
    score[1:3, 1:4] = score[1:3, 6:9] = score[4, 11:20] = 1
    frame = ComponentScores(0.5, MinimumSizes(1, 1)).update(score, mask)
    # The other object's pixels under the shared piece do not count against either.
    assert sorted(frame.siou) == [12 / 16, 4 / 5, 4 / 5]
    assert sorted(frame.ppv) == [8 / 9, 1, 1]
    assert sorted(frame.siou_predicted) == [6 / 10, 6 / 10, 8 / 9]


def test_diagonal_neighbours_are_connected() -> None:
    labels, sizes = label_components(np.eye(5, dtype=bool))
    assert sizes.tolist() == [0, 5]
    np.testing.assert_array_equal(labels, np.eye(5, dtype=np.int32))


def test_predictions_on_void_are_cut_before_their_size_is_judged() -> None:
    mask = np.zeros((3, 10), np.uint8)
    mask[:, 4:] = 255
    score = np.zeros(mask.shape, np.float32)
    score[1, 2:] = 1  # 8 pixels, of which 2 are labelled
    assert collect((score, mask), sizes=MinimumSizes(3, 1)).compute().predictions == 0
    assert collect((score, mask), sizes=MinimumSizes(2, 1)).compute().predictions == 1


def test_a_prediction_on_a_small_object_is_neither_right_nor_wrong() -> None:
    mask = np.zeros((3, 10), np.uint8)
    mask[1, 2:4] = 1
    score = np.zeros(mask.shape, np.float32)
    score[1, 2:4] = 1
    sizes = MinimumSizes(predicted=2, target=3)
    metrics = collect((score, mask), sizes=sizes).compute()
    assert (metrics.targets, metrics.predictions) == (0, 0)
    score[1, 4] = 1  # now it has a pixel of its own, which is wrong
    assert collect((score, mask), sizes=sizes).compute().PPV == 0


@pytest.mark.parametrize(("sizes", "object_size"), [(ANOMALY_TRACK, 100), (OBSTACLE_TRACK, 10)])
def test_track_sizes_are_inclusive(sizes: MinimumSizes, object_size: int) -> None:
    mask, score = np.zeros((30, 600), np.uint8), np.zeros((30, 600), np.float32)
    mask[1, :object_size] = mask[3, : object_size - 1] = 1
    score[10, : sizes.predicted] = score[20, : sizes.predicted - 1] = 1
    metrics = collect((score, mask), sizes=sizes).compute()
    assert (metrics.targets, metrics.predictions) == (1, 1)


def test_the_threshold_itself_is_an_alarm() -> None:
    mask = np.ones((2, 2), np.uint8)
    score = np.full((2, 2), 0.5, np.float32)
    assert collect((score, mask), sizes=MinimumSizes(1, 1)).compute().F1 == 1
    above = ComponentScores(np.nextafter(0.5, 1), MinimumSizes(1, 1))
    above.update(score, mask)
    assert above.compute().F1 == 0


@given(st.permutations(range(5)), st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_order_and_sharding_do_not_matter(order: list[int], split: int) -> None:
    frames = [random_frame(seed, (20, 30)) for seed in range(5)]
    left = collect(*(frames[i] for i in order[:split]))
    right = collect(*(frames[i] for i in order[split:]))
    left.merge(ComponentScores.from_state(right.state()))
    assert same(left.compute(), collect(*frames).compute())


def test_state_is_arrays_of_numbers_of_fixed_size() -> None:
    one, many = collect(random_frame(0)), collect(*(random_frame(seed) for seed in range(9)))
    assert all(array.dtype.kind in "fi" for array in many.state().values())
    sizes = [sum(a.nbytes for a in scores.state().values()) for scores in (one, many)]
    assert sizes[0] == sizes[1] < 1000
    assert same(ComponentScores.from_state(many.state()).compute(), many.compute())


def test_nothing_to_judge_is_nan_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    metrics = collect((np.zeros((4, 4), np.float32), np.zeros((4, 4), np.uint8))).compute()
    assert np.isnan([metrics.F1, metrics.sIoU, metrics.PPV]).all()
    assert not recwarn.list


def test_accepts_strided_views_and_half_precision() -> None:
    score, mask = random_frame(3)
    view = collect((score[::2, ::-1].astype(np.float16), mask[::2, ::-1]))
    copy = collect((score[::2, ::-1].copy(), mask[::2, ::-1].copy()))
    assert same(view.compute(), copy.compute())


def test_refuses_what_does_not_fit() -> None:
    score, mask = random_frame(4)
    with pytest.raises(ImageError, match=r"frame 'a': score is \(59, 80\), mask is \(60, 80\)"):
        collect().update(score[1:], mask, "a")
    with pytest.raises(ImageError, match="not finite"):
        collect().update(np.full_like(score, np.nan), mask)
    with pytest.raises(ValueError, match="cannot merge components at threshold"):
        collect().merge(ComponentScores(0.25, SMALL))

# SPDX-License-Identifier: Apache-2.0
"""Open-set IoU against class-by-class boolean images, and the protocol across folds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import f1_score, jaccard_score

from anomaly_seg_ros.errors import ImageError, ParameterError
from anomaly_seg_ros.metrics.exact_counts import ExactCounts
from anomaly_seg_ros.metrics.open_set_iou import (
    OpenSetConfusion,
    OpenSetMetrics,
    combine_folds,
    held_out_thresholds,
)
from anomaly_seg_ros.metrics.pixel_scores import PixelScores

K = 4
SHAPE = (5, 7)

Frame = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # labels, mask, prediction, score

FRAMES = st.tuples(
    arrays(np.uint8, SHAPE, elements=st.sampled_from([0, 1, 2, 3, 255])),
    arrays(np.uint8, SHAPE, elements=st.sampled_from([0, 0, 1, 255])),
    arrays(np.uint8, SHAPE, elements=st.sampled_from([0, 1, 2, 3, 4, 255])),
    arrays(np.float32, SHAPE, elements=st.sampled_from([-1.0, 0.0, 0.5, 2.0])),
)


def random_frame(seed: int, size: tuple[int, int] = (40, 50), shift: float = 1.0) -> Frame:
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 1, 2, 3, 255], size).astype(np.uint8)
    mask = rng.choice([0, 1, 255], size, p=[0.85, 0.1, 0.05]).astype(np.uint8)
    guess = rng.integers(0, K, size)
    prediction = np.where((labels < K) & (rng.random(size) < 0.7), labels, guess)
    score = (rng.normal(size=size) + shift * (mask == 1)).astype(np.float32)
    return labels, mask, prediction.astype(np.uint8), score


def collect(*frames: Frame, threshold: float = 0.5) -> OpenSetConfusion:
    confusion = OpenSetConfusion(K, threshold)
    for frame in frames:
        confusion.update(*frame)
    return confusion


def positives_of(*frames: Frame) -> ExactCounts:
    pixels = PixelScores()
    for _, mask, _, score in frames:
        pixels.update(score, mask)
    return pixels.positives


def reference(labels: np.ndarray, prediction: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(K + 1, 2) intersection over union and F1 of each class from its pair of images."""
    rows = []
    for k in range(K + 1):
        truth, answer = (labels == k) & valid, (prediction == k) & valid
        both, either = (truth & answer).sum(), (truth | answer).sum()
        total = truth.sum() + answer.sum()
        rows.append((both / either, 2 * both / total) if either else (np.nan, np.nan))
    return np.array(rows)


def same(left: OpenSetMetrics, right: OpenSetMetrics) -> bool:
    """Equality to the last bit, where NaN equals NaN."""
    return repr(left) == repr(right)


@given(FRAMES, st.sampled_from([-1.0, 0.25, 0.5, 9.0]))
@settings(max_examples=200, deadline=None)
def test_agrees_with_the_definition(frame: Frame, threshold: float) -> None:
    labels, mask, prediction, score = frame
    metrics = collect(frame, threshold=threshold).compute()
    known = (mask == 0) & (labels < K)

    # No class is 9 here: K means unknown in the open world.
    answer = np.where(prediction < K, prediction.astype(int), 9)
    truth = np.where(mask == 1, K, labels.astype(int))
    opened = reference(truth, np.where(score >= threshold, K, answer), known | (mask == 1))
    closed = reference(labels.astype(int), answer, known)[:K]

    np.testing.assert_allclose(metrics.open_iou, opened[:K, 0], rtol=0, atol=1e-15)
    np.testing.assert_allclose(metrics.anomaly_iou, opened[K, 0], rtol=0, atol=1e-15)
    np.testing.assert_allclose(metrics.f1, opened[:, 1], rtol=0, atol=1e-15)
    np.testing.assert_allclose(metrics.closed_iou, closed[:, 0], rtol=0, atol=1e-15)
    for mean, values in (
        (metrics.open_miou, opened[:K, 0]),
        (metrics.closed_miou, closed[:, 0]),
        (metrics.mean_f1, opened[:, 1]),
        (metrics.mean_f1_known, opened[:K, 1]),
    ):
        expected = [value for value in values if not np.isnan(value)]
        assert mean == pytest.approx(np.mean(expected) if expected else np.nan, nan_ok=True)


def test_agrees_with_scikit_learn() -> None:
    labels, mask, prediction, score = random_frame(1, (120, 150))
    metrics = collect((labels, mask, prediction, score)).compute()
    valid = (mask == 1) | ((mask == 0) & (labels < K))
    truth = np.where(mask == 1, K, labels)[valid]
    answer = np.where(score >= 0.5, K, prediction)[valid]
    iou = jaccard_score(truth, answer, average=None)
    np.testing.assert_allclose([*metrics.open_iou, metrics.anomaly_iou], iou, atol=1e-12)
    assert metrics.mean_f1 == pytest.approx(f1_score(truth, answer, average="macro"))
    assert metrics.tpr == pytest.approx((answer == K)[truth == K].mean())
    assert metrics.fpr == pytest.approx((answer == K)[truth < K].mean())


def test_a_perfect_detector_leaves_no_gap() -> None:
    labels, mask, prediction, _ = random_frame(2)
    perfect = collect((labels, mask, prediction, mask.astype(np.float32))).compute()
    assert perfect.gap == 0
    np.testing.assert_array_equal(perfect.open_iou, perfect.closed_iou)
    assert (perfect.anomaly_iou, perfect.tpr, perfect.fpr) == (1, 1, 0)
    blind = collect((labels, mask, prediction, np.zeros(mask.shape))).compute()
    assert blind.gap > 0.01  # missed anomalies are false positives of known classes


def test_each_fold_is_measured_at_the_other_folds_threshold() -> None:
    folds = [
        [random_frame(seed, shift=1.0) for seed in range(3)],
        [random_frame(seed, shift=2.0) for seed in range(5, 6)],
    ]
    thresholds = []
    for frames in folds:
        anomalous = np.concatenate([score[mask == 1] for _, mask, _, score in frames])
        thresholds.append(np.sort(anomalous)[::-1][int(np.ceil(0.95 * anomalous.size)) - 1])
    assert thresholds[0] < thresholds[1]
    held_out = held_out_thresholds([positives_of(*frames) for frames in folds])
    assert held_out == thresholds[::-1]
    pairs = list(zip(folds, held_out, strict=True))
    result = combine_folds([collect(*frames, threshold=threshold) for frames, threshold in pairs])
    for fold, (frames, threshold) in zip(result.folds, pairs, strict=True):
        assert same(fold, collect(*frames, threshold=threshold).compute())
    by_images = (3 * result.folds[0].open_miou + result.folds[1].open_miou) / 4
    assert result.open_miou == pytest.approx(by_images, abs=1e-15)
    everything = collect(*folds[0], *folds[1]).compute()
    assert result.closed_miou == everything.closed_miou
    assert result.gap == result.closed_miou - result.open_miou
    np.testing.assert_allclose(np.mean(result.open_iou), result.open_miou, atol=1e-15)


def test_thresholds_of_three_folds_pool_the_other_two() -> None:
    folds = []
    for values in ([1, 2, 3], [10, 20], [100]):
        pixels = PixelScores()
        pixels.update(np.float32([values]), np.ones((1, len(values)), np.uint8))
        folds.append(pixels.positives)
    assert held_out_thresholds(folds, rate=0.5) == [20, 3, 3]
    assert held_out_thresholds(folds, rate=0.5, strict=True) == [20, 2, 3]


@given(st.permutations(range(5)), st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_order_and_sharding_do_not_matter(order: list[int], split: int) -> None:
    frames = [random_frame(seed, (8, 9)) for seed in range(5)]
    first, second = [frames[i] for i in order[:split]], [frames[i] for i in order[split:]]
    expected = collect(*frames).compute()

    left = collect(*first)
    left.merge(OpenSetConfusion.from_state(collect(*second).state()))
    assert same(left.compute(), expected)


def test_states_are_arrays_of_numbers() -> None:
    frames = [random_frame(seed) for seed in range(3)]
    for collection in (collect(*frames), collect()):
        state = collection.state()
        assert all(array.dtype.kind in "fiu" for array in state.values())
        again = OpenSetConfusion.from_state(state)
        assert again.frames == collection.frames
        for key, array in again.state().items():
            np.testing.assert_array_equal(array, state[key])


def test_nothing_labelled_is_nan_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    metrics = collect().compute()
    assert np.isnan([metrics.open_miou, metrics.gap, metrics.mean_f1, metrics.tpr]).all()
    assert not recwarn.list


def test_refuses_what_does_not_fit() -> None:
    labels, mask, prediction, score = random_frame(4)
    with pytest.raises(ImageError, match=r"frame 'a': labels, mask, prediction and score differ"):
        collect().update(labels, mask, prediction[1:], score, "a")
    with pytest.raises(ImageError, match="not finite"):
        collect((labels, mask, prediction, score + np.float32(np.inf)))
    with pytest.raises(ValueError, match="cannot merge"):
        collect().merge(collect(threshold=0.75))
    with pytest.raises(ParameterError, match=r"num_classes must lie in 1\.\.254, got 255"):
        OpenSetConfusion(255, 0.5)
    with pytest.raises(ParameterError, match="two folds or more, got 1"):
        held_out_thresholds([positives_of()])
    with pytest.raises(ParameterError, match="no anomalous pixels"):
        held_out_thresholds([positives_of(), positives_of()])
    with pytest.raises(ParameterError, match=r"got \[0, 0\] frames"):
        combine_folds([collect(), collect()])

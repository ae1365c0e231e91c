"""Open-set IoU against class-by-class boolean images, and the protocol across folds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import f1_score, jaccard_score

from anomaly_seg_ros.errors import ImageError, ParameterError
from anomaly_seg_ros.metrics.cross_fold import combine_folds, cross_fold, held_out_thresholds
from anomaly_seg_ros.metrics.open_set_iou import OpenSetConfusion, OpenSetMetrics
from anomaly_seg_ros.metrics.open_set_scores import OpenSetScores
from anomaly_seg_ros.metrics.pixel_scores import PixelScores
from anomaly_seg_ros.metrics.thresholds import threshold_at_tpr

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


def collect_scores(*frames: Frame, memory_limit: int = 1 << 20) -> OpenSetScores:
    scores = OpenSetScores(K, memory_limit)
    for frame in frames:
        scores.update(*frame)
    return scores


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


def test_one_pass_counts_what_two_passes_count() -> None:
    frames = [random_frame(seed) for seed in range(4)]
    scores = collect_scores(*frames)
    for threshold in (-9.0, 0.0, float(frames[0][3][3, 3]), 0.5, 9.0):
        one, two = scores.at(threshold), collect(*frames, threshold=threshold)
        np.testing.assert_array_equal(one.counts, two.counts)
        assert same(one.compute(), two.compute())


@pytest.mark.parametrize("memory_limit", [1, 1000, 10**6])
def test_pixels_on_disk_count_like_those_in_memory(
    monkeypatch: pytest.MonkeyPatch, memory_limit: int
) -> None:
    monkeypatch.setattr("anomaly_seg_ros.metrics.open_set_scores._RECORDS_AT_ONCE", 700)
    frames = [random_frame(seed) for seed in range(3)]
    scores = collect_scores(*frames, memory_limit=memory_limit)
    assert same(scores.at(0.3).compute(), collect(*frames, threshold=0.3).compute())
    scores.merge(scores)
    twice = collect(*frames, *frames, threshold=0.3)
    assert same(scores.at(0.3).compute(), twice.compute())


def test_each_fold_is_measured_at_the_other_folds_threshold() -> None:
    folds = [
        [random_frame(seed, shift=1.0) for seed in range(3)],
        [random_frame(seed, shift=2.0) for seed in range(5, 6)],
    ]
    result = cross_fold([collect_scores(*frames) for frames in folds])
    thresholds = []
    for frames in folds:
        anomalous = np.concatenate([score[mask == 1] for _, mask, _, score in frames])
        thresholds.append(np.sort(anomalous)[::-1][int(np.ceil(0.95 * anomalous.size)) - 1])
    assert thresholds[0] < thresholds[1]
    for fold, frames, threshold in zip(result.folds, folds, thresholds[::-1], strict=True):
        assert fold.threshold == threshold
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


def test_threshold_of_pixel_scores_is_the_same() -> None:
    labels, mask, prediction, score = random_frame(3)
    pixels = PixelScores()
    pixels.update(score, mask)
    scores = collect_scores((labels, mask, prediction, score))
    two_pass = threshold_at_tpr(pixels.positives)
    assert held_out_thresholds([scores.anomalies] * 2) == [two_pass] * 2
    assert held_out_thresholds([pixels.positives] * 2) == [two_pass] * 2
    detected = scores.at(two_pass).compute().tpr
    assert 0.95 <= detected < 0.95 + 1 / scores.anomalies.total


@given(st.permutations(range(5)), st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_order_and_sharding_do_not_matter(order: list[int], split: int) -> None:
    frames = [random_frame(seed, (8, 9)) for seed in range(5)]
    first, second = [frames[i] for i in order[:split]], [frames[i] for i in order[split:]]
    expected = collect(*frames).compute()

    left = collect(*first)
    left.merge(OpenSetConfusion.from_state(collect(*second).state()))
    assert same(left.compute(), expected)

    scores = collect_scores(*first)
    scores.merge(OpenSetScores.from_state(collect_scores(*second).state()))
    assert same(scores.at(0.5).compute(), expected)
    assert (
        cross_fold([scores, scores]).open_miou
        == cross_fold([collect_scores(*frames)] * 2).open_miou
    )


def test_states_are_arrays_of_numbers() -> None:
    frames = [random_frame(seed) for seed in range(3)]
    for collection in (collect(*frames), collect_scores(*frames), collect_scores()):
        state = collection.state()
        assert all(array.dtype.kind in "fiu" for array in state.values())
        again = type(collection).from_state(state)
        assert again.frames == collection.frames
        for key, array in again.state().items():
            np.testing.assert_array_equal(array, state[key])
    labelled = int((frames[0][1] == 1).sum() + ((frames[0][1] == 0) & (frames[0][0] < K)).sum())
    state = collect_scores(frames[0]).state()
    assert state["scores"].nbytes + state["pairs"].nbytes == 6 * labelled


def test_nothing_labelled_is_nan_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    metrics = collect().compute()
    assert np.isnan([metrics.open_miou, metrics.gap, metrics.mean_f1, metrics.tpr]).all()
    assert not recwarn.list


def test_refuses_what_does_not_fit() -> None:
    labels, mask, prediction, score = random_frame(4)
    with pytest.raises(ImageError, match=r"frame 'a': labels, mask, prediction and score differ"):
        collect().update(labels, mask, prediction[1:], score, "a")
    with pytest.raises(ImageError, match="not finite"):
        collect_scores((labels, mask, prediction, score + np.float32(np.inf)))
    with pytest.raises(ValueError, match="cannot merge"):
        collect().merge(collect(threshold=0.75))
    with pytest.raises(ValueError, match="cannot merge 3 into 4 classes"):
        collect_scores().merge(OpenSetScores(3))
    for build in (OpenSetScores, lambda classes: OpenSetConfusion(classes, 0.5)):
        with pytest.raises(ParameterError, match=r"num_classes must lie in 1\.\.254, got 255"):
            build(255)
    with pytest.raises(ParameterError, match="two folds or more, got 1"):
        cross_fold([collect_scores()])
    with pytest.raises(ParameterError, match="no anomalous pixels"):
        cross_fold([collect_scores(), collect_scores()])
    with pytest.raises(ParameterError, match=r"got \[0, 0\] frames"):
        combine_folds([collect(), collect()])

# SPDX-License-Identifier: Apache-2.0
"""Pooled AP, AUROC and FPR95 against scikit-learn."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from anomaly_seg_ros.errors import ImageError
from anomaly_seg_ros.metrics.pixel_scores import FPR95_CONVENTION, PixelMetrics, PixelScores
from anomaly_seg_ros.metrics.threshold_counts import CONVENTIONS, FIRST_AT_LEAST


def collect(*frames: tuple[np.ndarray, np.ndarray]) -> PixelScores:
    pixels = PixelScores()
    for score, mask in frames:
        pixels.update(score, mask)
    return pixels


def figures(metrics: PixelMetrics) -> tuple[float, float, float]:
    return metrics.AP, metrics.AUROC, metrics.FPR95


def sklearn_figures(score: np.ndarray, mask: np.ndarray) -> tuple[float, float, float]:
    labelled = (mask == 0) | (mask == 1)
    truth, values = mask[labelled], score[labelled].astype(np.float64)
    fpr, tpr, _ = roc_curve(truth, values, drop_intermediate=False)
    return (
        average_precision_score(truth, values),
        roc_auc_score(truth, values),
        fpr[np.argmax(tpr >= 0.95)],
    )


def random_frame(
    seed: int, size: tuple[int, int] = (60, 80), anomalous: float = 0.03, levels: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping normal scores; ``levels`` > 0 rounds them to that many, which makes ties."""
    rng = np.random.default_rng(seed)
    mask = rng.choice([0, 1, 255, 7], size, p=[0.85 - anomalous, anomalous, 0.1, 0.05])
    score = rng.normal(size=size) + (mask == 1)
    if levels:
        score = np.clip(np.round(score * levels / 6), -levels, levels)
    return score.astype(np.float32), mask.astype(np.uint8)


@pytest.mark.parametrize("anomalous", [0.001, 0.03, 0.5, 0.84])
@pytest.mark.parametrize("levels", [0, 2, 5, 50])
def test_agrees_with_scikit_learn(anomalous: float, levels: int) -> None:
    score, mask = random_frame(1, (150, 200), anomalous, levels)
    assert figures(collect((score, mask)).compute()) == pytest.approx(
        sklearn_figures(score, mask), abs=1e-12
    )


@given(
    st.lists(
        st.tuples(
            st.floats(-4, 4, width=16) | st.sampled_from([0.0, -0.0, 1.0]),
            st.sampled_from([0, 1, 255]),
        ),
        min_size=2,
        max_size=60,
    ).filter(lambda pixels: {0, 1} <= {label for _, label in pixels})
)
@settings(max_examples=200, deadline=None)
def test_agrees_with_scikit_learn_on_any_pixels(pixels: list[tuple[float, int]]) -> None:
    score = np.array([[value for value, _ in pixels]], np.float32)
    mask = np.array([[label for _, label in pixels]], np.uint8)
    assert figures(collect((score, mask)).compute()) == pytest.approx(
        sklearn_figures(score, mask), abs=1e-12
    )


@given(
    st.lists(
        st.tuples(st.floats(width=32, allow_nan=False, allow_infinity=False), st.booleans()),
        min_size=2,
        max_size=40,
    ).filter(lambda pixels: len({label for _, label in pixels}) == 2)
)
@settings(max_examples=100, deadline=None)
def test_agrees_with_scikit_learn_over_the_whole_range(pixels: list[tuple[float, bool]]) -> None:
    score = np.array([[value for value, _ in pixels]], np.float32)
    mask = np.array([[label for _, label in pixels]], np.uint8)
    assert figures(collect((score, mask)).compute()) == pytest.approx(
        sklearn_figures(score, mask), abs=1e-12
    )


@given(st.permutations(range(6)), st.lists(st.integers(0, 6), max_size=4), st.data())
@settings(max_examples=15, deadline=None)
def test_any_tree_of_merges_and_any_memory_give_the_same_digits(
    order: list[int], cuts: list[int], data: st.DataObject
) -> None:
    frames = [random_frame(seed, (12, 17), levels=4 * (seed % 2)) for seed in range(6)]
    whole = collect(*frames).compute()
    parts = []
    for start, end in itertools.pairwise([0, *sorted(cuts), 6]):
        # The smallest limit writes counts to files from the first hundred scores on.
        part = PixelScores(memory_limit=data.draw(st.sampled_from([5000, 20_000, 1 << 28])))
        for place in order[start:end]:
            part.update(*frames[place])
        parts.append(part)
    while len(parts) > 1:
        first = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        parts[data.draw(st.integers(0, len(parts) - 1))].merge(first)
    assert parts[0].compute() == whole


def test_files_in_place_of_memory_change_nothing(tmp_path: Path) -> None:
    frames = [random_frame(seed, (60, 80), 0.1) for seed in range(4)]
    in_memory = collect(*frames)
    spilled = PixelScores(memory_limit=30_000, spill_folder=tmp_path)
    for frame in frames:
        spilled.update(*frame)
    assert spilled.compute() == in_memory.compute()
    assert list(tmp_path.rglob("*.counts"))
    for curve in ("pr_curve", "roc_curve", "histograms"):
        pairs = zip(getattr(spilled, curve)(), getattr(in_memory, curve)(), strict=True)
        for one, other in pairs:
            np.testing.assert_array_equal(one, other)


def test_rates_at_a_threshold_count_scores_that_reach_it() -> None:
    score, mask = random_frame(12, levels=5)
    pixels = collect((score, mask))
    for threshold in (-100.0, -1.0, 0.0, 0.3, 1.0, 100.0):
        expected = [np.mean(score[mask == label] >= threshold) for label in (1, 0)]
        assert pixels.rates_at(threshold) == pytest.approx(expected, abs=1e-15)


def test_half_precision_scores_are_taken_as_they_are() -> None:
    score, mask = random_frame(13)
    half = score.astype(np.float16)
    assert collect((half, mask)).compute() == collect((half.astype(np.float32), mask)).compute()


def test_all_conventions_of_fpr95_come_along() -> None:
    metrics = collect(random_frame(14)).compute()
    assert metrics.fpr95["first_at_least"] == metrics.FPR95
    assert len(metrics.fpr95) == 4


@given(st.permutations(range(5)), st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_order_and_sharding_do_not_matter(order: list[int], split: int) -> None:
    frames = [random_frame(seed, (12, 17), levels=4) for seed in range(5)]
    whole = collect(*frames).compute()
    left = collect(*(frames[i] for i in order[:split]))
    right = collect(*(frames[i] for i in order[split:]))
    left.merge(right)
    assert left.compute() == whole


def test_pools_pixels_and_does_not_average_frames() -> None:
    frames = [random_frame(3, (40, 40), 0.02), random_frame(4, (90, 30), 0.3)]
    score = np.concatenate([s.ravel() for s, _ in frames])
    mask = np.concatenate([m.ravel() for _, m in frames])
    assert figures(collect(*frames).compute()) == pytest.approx(sklearn_figures(score, mask))


def test_merging_leaves_the_other_collection_as_it_was() -> None:
    first, second = collect(random_frame(5)), collect(random_frame(6))
    before = second.compute()
    first.merge(second)
    first.compute()
    assert second.compute() == before


def test_can_go_on_after_compute() -> None:
    frames = [random_frame(7), random_frame(8)]
    pixels = collect(frames[0])
    pixels.compute()
    pixels.update(*frames[1])
    assert pixels.compute() == collect(*frames).compute()


def test_perfect_reversed_and_constant_scores() -> None:
    mask = np.array([[0, 0, 0, 1, 255]], np.uint8)
    rising = np.arange(5, dtype=np.float32)[None]
    assert figures(collect((rising, mask)).compute()) == (1.0, 1.0, 0.0)
    assert figures(collect((-rising, mask)).compute()) == (0.25, 0.0, 1.0)
    assert figures(collect((rising * 0, mask)).compute()) == (0.25, 0.5, 1.0)


def test_fpr95_takes_the_first_threshold_that_reaches_the_rate() -> None:
    # 20 positives: exactly 0.95 is reached with the 19th, whatever lies below it.
    positives = np.arange(20, 0, -1, dtype=np.float32)
    negatives = np.array([2.5, 1.5, 0.5, 0.1], np.float32)
    score = np.concatenate([positives, negatives])[None]
    mask = np.concatenate([np.ones(20), np.zeros(4)]).astype(np.uint8)[None]
    metrics = collect((score, mask)).compute()
    assert metrics.FPR95 == 0.25
    assert ">= 0.95" in FPR95_CONVENTION


def test_counts_pixels_and_drops_other_labels() -> None:
    mask = np.array([[0, 1, 255], [0, 2, 254]], np.uint8)
    metrics = collect((np.zeros((2, 3), np.float32), mask)).compute()
    assert (metrics.positives, metrics.negatives) == (1, 2)


@pytest.mark.parametrize(
    ("label", "missing"), [(0, "no anomalous"), (1, "no in-distribution"), (255, "no anomalous")]
)
def test_undefined_figures_are_nan_with_a_reason(label: int, missing: str) -> None:
    pixels = collect((np.ones((3, 3), np.float32), np.full((3, 3), label, np.uint8)))
    metrics = pixels.compute()
    assert np.isnan(figures(metrics)).all()
    assert missing in metrics.note
    assert pixels.roc_curve()[0].size == 0
    assert pixels.histograms()[0].size == 81
    pixels.pr_curve()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_refuses_a_labelled_pixel_that_is_not_finite(value: float) -> None:
    score = np.zeros((2, 2), np.float32)
    score[0, 1] = value
    with pytest.raises(ImageError, match=r"frame 'street_7'.*1 of its labelled"):
        PixelScores().update(score, np.zeros((2, 2), np.uint8), name="street_7")
    ignored = np.array([[0, 255], [0, 1]], np.uint8)
    assert collect((score, ignored)).compute().negatives == 2


def test_refuses_a_mask_of_another_size() -> None:
    with pytest.raises(ImageError, match=r"\(4, 5\).*\(5, 4\)"):
        PixelScores().update(np.zeros((4, 5), np.float32), np.zeros((5, 4), np.uint8))


def test_accepts_strided_views() -> None:
    score, mask = random_frame(9)
    view = collect((score[::2, ::-3], mask[::2, ::-3])).compute()
    copy = collect((score[::2, ::-3].copy(), mask[::2, ::-3].copy())).compute()
    assert view == copy


def test_thin_curves_lie_on_the_full_ones() -> None:
    pixels = collect(random_frame(10, (200, 200), 0.2))
    recall, precision = pixels.pr_curve(50)
    all_recall, all_precision = pixels.pr_curve(10**9)
    assert recall.size <= 50 < all_recall.size
    assert recall[-1] == 1.0
    assert (np.diff(recall) > 0).all()
    at = np.searchsorted(all_recall, recall)
    np.testing.assert_array_equal(all_precision[at], precision)

    fpr, tpr = pixels.roc_curve(50)
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(fpr) >= 0).all()
    assert (np.diff(tpr) >= 0).all()
    area = np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2)
    assert area == pytest.approx(pixels.compute().AUROC, abs=0.01)


def test_histograms_count_every_pixel_once() -> None:
    frame = random_frame(11)
    frame[0][0, 0], frame[1][0, 0] = 1e6, 0
    edges, known, unknown = collect(frame).histograms(bins=20)
    assert edges[-1] < 100
    assert known.sum() == pytest.approx(1)
    assert unknown.sum() == pytest.approx(1)
    centres = (edges[1:] + edges[:-1]) / 2
    assert unknown @ centres > known @ centres + 0.5


def test_means_agree_with_scikit_learn_frame_by_frame() -> None:
    pixels, expected = PixelScores(), []
    for seed in range(6):
        score, mask = random_frame(seed, (30, 40), 0.15, levels=seed % 3)
        pixels.update(score, mask, f"frame {seed}")
        expected.append(sklearn_figures(score, mask))
    means = pixels.compute().per_image
    assert figures(means) == pytest.approx(np.mean(expected, axis=0).tolist(), abs=1e-12)
    assert (means.frames, means.left_out) == (6, 0)
    assert means.fpr95.keys() == CONVENTIONS.keys()
    assert means.fpr95[FIRST_AT_LEAST] == means.FPR95
    for kept, by_sklearn in zip(pixels.frames, expected, strict=True):
        own = kept.AP, kept.AUROC, kept.FPR95[FIRST_AT_LEAST]
        assert own == pytest.approx(by_sklearn, abs=1e-12)
    assert [kept.name for kept in pixels.frames] == [f"frame {seed}" for seed in range(6)]


def test_frames_without_one_kind_are_left_out_and_counted() -> None:
    score, mask = random_frame(1)
    alone = collect((score, mask)).compute()
    without_anomaly, anomalies_only = np.where(mask == 1, 255, mask), np.ones_like(mask)
    pooled = collect((score, mask), (score, without_anomaly), (score, anomalies_only)).compute()
    means = pooled.per_image
    assert (means.AP, means.frames, means.left_out) == (alone.per_image.AP, 1, 2)
    assert pooled.AP != alone.AP  # pooled figures count these frames' pixels


def test_nothing_to_average_is_nan() -> None:
    means = collect((np.zeros((2, 2), np.float32), np.zeros((2, 2), np.uint8))).compute().per_image
    assert np.isnan([means.AP, means.AUROC, means.FPR95, *means.fpr95.values()]).all()
    assert (means.frames, means.left_out) == (0, 1)


def test_one_collection_that_kept_no_frames_leaves_the_sum_without() -> None:
    kept, pooled = PixelScores(), PixelScores(per_image=False)
    kept.update(*random_frame(1))
    pooled.update(*random_frame(2))
    assert pooled.compute().per_image is None
    kept.merge(pooled)
    assert kept.compute().per_image is None

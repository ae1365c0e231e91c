# SPDX-License-Identifier: Apache-2.0
"""Differences are exact; intervals equal a plain re-computation and cover the truth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from tiny_benchmark import write_measured

from anomaly_seg_ros.errors import OutputError, ParameterError
from anomaly_seg_ros.evaluation import compare
from anomaly_seg_ros.evaluation.image_counts import ImageCounts
from anomaly_seg_ros.evaluation.results import read_benchmark, write_benchmark
from anomaly_seg_ros.metrics import resampling

IMAGES = 14


def drawn(seed: int = 0, images: int = IMAGES, shape: tuple[int, int] = (12, 16)) -> tuple:
    """Masks, and scores of a weak and of a better detector on them."""
    rng = np.random.default_rng(seed)
    masks = (rng.random((images, *shape)) < 0.15).astype(np.uint8)
    masks[rng.random(masks.shape) < 0.05] = 255
    # Images differ: some are hard for both.
    ease = rng.normal(1.0, 0.6, (images, 1, 1))
    noise = rng.normal(size=masks.shape)
    weak = (noise + ease * (masks == 1)).astype(np.float32)
    better = (noise + rng.normal(0, 0.5, masks.shape) + (ease + 1) * (masks == 1)).astype(
        np.float32
    )
    return masks, weak, better


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two benchmarks of one model, before and after."""
    masks, weak, better = drawn()
    a = write_measured(tmp_path / "a", "m", masks, {"msp": weak}, miou=60.0)
    b = write_measured(tmp_path / "b", "m", masks, {"msp": better}, miou=59.5)
    return a, b


def plain_figures(score: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """With scikit-learn, pixel by pixel."""
    fpr, tpr, _ = roc_curve(truth, score, drop_intermediate=False)
    return {
        "AP": average_precision_score(truth, score),
        "AUROC": roc_auc_score(truth, score),
        "FPR95": fpr[np.searchsorted(tpr, 0.95)],
        # Just below: where a point lies at exactly 0.95, the first of its false-positive rates.
        "FPR95 inside its bin": np.interp(0.95 - 1e-12, tpr, fpr),
    }


def test_resampled_figures_equal_scikit_learn_on_the_repeated_pixels(
    pair: tuple[Path, Path],
) -> None:
    counts = ImageCounts.load(pair[0].parent / "images" / "m__drawn.npz")
    positives, negatives = counts.counts("msp")
    values = counts.bin_values("msp")
    weights = resampling.draw_images(IMAGES, 25, seed=3)
    assert (weights.sum(axis=1) == IMAGES).all()
    found = resampling.pooled_figures(weights, positives, negatives)
    for replicate, times in enumerate(weights.astype(int)):
        score, truth = [], []
        for image in np.repeat(np.arange(IMAGES), times):
            for kind, label in ((positives, 1), (negatives, 0)):
                score.append(np.repeat(values, kind[image]))
                truth.append(np.full(kind[image].sum(), label))
        expected = plain_figures(np.concatenate(score), np.concatenate(truth))
        expected["FPR95"] = expected.pop("FPR95 inside its bin")
        for name, value in expected.items():
            assert found[name][replicate] == pytest.approx(value, abs=1e-9), name


def test_chunks_change_nothing(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    counts = ImageCounts.load(pair[0].parent / "images" / "m__drawn.npz").counts("msp")
    weights = resampling.draw_images(IMAGES, 50, seed=0)
    whole = resampling.pooled_figures(weights, *counts)
    monkeypatch.setattr(resampling, "_CHUNK", 3 * counts[0].shape[1])
    for name, values in resampling.pooled_figures(weights, *counts).items():
        np.testing.assert_array_equal(values, whole[name])


def test_a_replicate_without_anomalies_is_undefined() -> None:
    weights = np.array([[1.0, 1.0], [0.0, 2.0]])
    positives, negatives = np.array([[0, 5], [0, 0]]), np.array([[3, 1], [4, 0]])
    found = resampling.pooled_figures(weights, positives, negatives)
    # Falling: 5 anomalies with 1 false alarm, then 7 in-distribution pixels. 95 % of the
    # anomalies lie in 95 % of the upper bin.
    assert found["AP"][0] == pytest.approx(5 / 6)
    assert found["FPR95"][0] == pytest.approx(0.95 / 8)
    assert found["AUROC"][0] == pytest.approx((7 + 0.5) / 8)
    assert all(np.isnan(values[1]) for values in found.values())
    means = resampling.weighted_means(weights, np.array([0.25, np.nan]))
    assert means[0] == 0.25
    assert np.isnan(means[1])


def test_differences_are_exact_and_intervals_surround_them(pair: tuple[Path, Path]) -> None:
    masks, weak, better = drawn()
    labelled = masks != 255
    truth = masks[labelled]
    expected = [plain_figures(score[labelled], truth) for score in (weak, better)]
    comparison = compare.compare_benchmarks(*pair)
    score, closed = comparison.pairs
    assert (score.images, score.score, closed.score) == (IMAGES, "msp", "")
    figures = {figure.figure: figure for figure in score.figures}
    for name in resampling.FIGURES:
        figure = figures[name]
        assert figure.a == pytest.approx(100 * expected[0][name])
        assert figure.difference == pytest.approx(100 * (expected[1][name] - expected[0][name]))
        assert figure.low < figure.difference < figure.high
        assert abs(figure.binning) < 2, "bins are 0.8 % wide"
    assert figures["AP"].is_clear
    assert figures["AP"].b_better == 100
    assert figures["FPR95"].difference < 0
    assert figures["FPR95"].b_better > 95, "a lower rate is better"
    assert figures[compare.PER_IMAGE_AP].binning == pytest.approx(0, abs=1e-9)
    (miou,) = closed.figures
    assert (miou.difference, miou.low) == (-0.5, None)


def test_the_interval_is_that_of_a_plain_loop(pair: tuple[Path, Path]) -> None:
    comparison = compare.compare_benchmarks(*pair, resampling=compare.Resampling(40, 7, 80.0))
    figure = comparison.pairs[0].figures[0]
    sides = [
        ImageCounts.load(path.parent / "images" / "m__drawn.npz").counts("msp") for path in pair
    ]

    def difference(times: np.ndarray) -> float:
        aps = []
        for positives, negatives in sides:
            hits = (times @ positives)[::-1]
            bins = np.arange(hits.size, 0, -1)
            score = np.r_[bins, bins]
            truth = np.r_[np.ones(hits.size), np.zeros(hits.size)]
            share = np.r_[hits, (times @ negatives)[::-1]]
            aps.append(average_precision_score(truth, score, sample_weight=share))
        return 100 * (aps[1] - aps[0])

    draws = [difference(times) for times in resampling.draw_images(IMAGES, 40, 7)]
    shift = figure.difference - difference(np.ones(IMAGES))
    low, high = np.quantile(draws, [0.1, 0.9]) + shift
    assert (figure.low, figure.high) == pytest.approx((low, high))


def test_intervals_repeat_and_depend_on_the_seed(pair: tuple[Path, Path]) -> None:
    texts = [
        compare.compare_benchmarks(*pair, resampling=compare.Resampling(200, seed)).to_json()
        for seed in (0, 0, 1)
    ]
    assert texts[0] == texts[1]
    assert json.loads(texts[0])["pairs"] != json.loads(texts[2])["pairs"]


def test_the_order_of_the_images_does_not_matter(pair: tuple[Path, Path], tmp_path: Path) -> None:
    masks, _, better = drawn()
    names = tuple(f"image_{index}" for index in reversed(range(IMAGES)))
    turned = write_measured(
        tmp_path / "c", "m", masks[::-1], {"msp": better[::-1]}, names=names, miou=59.5
    )
    first = compare.compare_benchmarks(*pair)
    second = compare.compare_benchmarks(pair[0], turned)
    for mine, theirs in zip(first.pairs[0].figures, second.pairs[0].figures, strict=True):
        assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high))


def test_a_benchmark_equals_itself(pair: tuple[Path, Path]) -> None:
    comparison = compare.compare_benchmarks(pair[0], pair[0].parent)
    for figure in comparison.pairs[0].figures:
        assert (figure.difference, figure.low, figure.high, figure.b_better) == (0, 0, 0, 50)
        assert not figure.is_clear


def test_intervals_cover_the_true_difference() -> None:
    """Images of known kinds: the truth is the difference over very many of them."""
    rng = np.random.default_rng(5)
    bins, kinds = 40, 200
    shape = np.exp(-0.5 * ((np.arange(bins) - 15) / 6) ** 2)
    pool = []
    for ease in rng.normal(8, 4, kinds):
        sides = []
        for gain in (0, 3):
            hit = np.exp(-0.5 * ((np.arange(bins) - 15 - ease - gain) / 6) ** 2)
            sides.append((rng.poisson(60 * hit / hit.sum()), rng.poisson(600 * shape / 15)))
        pool.append(sides)
    counts = np.array(pool)  # kind of image, side, kind of pixel, bin

    def difference(weights: np.ndarray, images: np.ndarray) -> np.ndarray:
        aps = [resampling.pooled_figures(weights, *np.moveaxis(s, 1, 0))["AP"] for s in
               (images[:, 0], images[:, 1])]  # fmt: skip
        return aps[1] - aps[0]

    truth = difference(np.ones((1, kinds)), counts)[0]
    weights = resampling.draw_images(30, 200, seed=0)
    covered = 0
    for _ in range(200):
        images = counts[rng.integers(kinds, size=30)]
        low, high = resampling.interval(difference(weights, images), 0.9)
        covered += low <= truth <= high
    assert 0.82 <= covered / 200 <= 0.96


def test_models_of_different_names_are_paired(tmp_path: Path) -> None:
    masks, weak, better = drawn()
    a = write_measured(tmp_path / "a", "closed", masks, {"msp": weak})
    b = write_measured(tmp_path / "b", "open", masks, {"msp": better, "energy": better})
    with pytest.raises(ParameterError, match=r"closed on drawn.*open on drawn.*--model-a"):
        compare.compare_benchmarks(a, b)
    comparison = compare.compare_benchmarks(a, b, "closed", "open")
    assert [(p.model_a, p.model_b, p.score) for p in comparison.pairs] == [
        ("closed", "open", "msp")
    ]
    assert comparison.notes == ["only in B: closed → open on drawn: energy"]
    with pytest.raises(ParameterError, match=r"no model 'shut'; it has closed"):
        compare.compare_benchmarks(a, b, "shut", "open")


def test_what_cannot_be_compared_is_refused_by_name(tmp_path: Path) -> None:
    masks, weak, _ = drawn()
    a = write_measured(tmp_path / "a", "m", masks, {"msp": weak})

    fewer = write_measured(tmp_path / "b", "m", masks[1:], {"msp": weak[1:]})
    with pytest.raises(ParameterError, match=r"m on drawn: frames differ: .* 14, .* 13"):
        compare.compare_benchmarks(a, fewer)

    names = tuple(f"image_{index}" for index in range(1, IMAGES + 1))
    renamed = write_measured(tmp_path / "c", "m", masks, {"msp": weak}, names=names)
    with pytest.raises(ParameterError, match=r"images differ: only one side has 'image_0'"):
        compare.compare_benchmarks(a, renamed)

    swapped = masks.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    relabelled = write_measured(tmp_path / "d", "m", swapped, {"msp": weak})
    with pytest.raises(ParameterError, match="ground truth of 'image_0' differs"):
        compare.compare_benchmarks(a, relabelled)

    benchmark = read_benchmark(a)
    benchmark.conventions["FPR95"] = "at the first threshold above"
    other = write_benchmark(benchmark, tmp_path / "e")
    with pytest.raises(ParameterError, match="conventions differ in 'FPR95'"):
        compare.compare_benchmarks(a, other)

    with pytest.raises(OutputError, match="cannot read"):
        compare.compare_benchmarks(a, tmp_path / "none.json")


@pytest.mark.parametrize(
    "options", [{"replicates": -1}, {"seed": -1}, {"confidence": 0.0}, {"confidence": 100.0}]
)
def test_resampling_is_checked(options: dict) -> None:
    with pytest.raises(ParameterError, match=next(iter(options))):
        compare.Resampling(**options)


def test_without_counts_there_are_differences_and_a_note(pair: tuple[Path, Path]) -> None:
    (pair[1].parent / "images" / "m__drawn.npz").unlink()
    comparison = compare.compare_benchmarks(*pair)
    assert comparison.pairs[0].figures[0].difference is not None
    assert comparison.pairs[0].figures[0].low is None
    assert "no interval" in comparison.notes[0]
    assert "m__drawn.npz is missing" in comparison.notes[0]


def test_counts_of_a_run_in_process_are_not_those_of_the_node(pair: tuple[Path, Path]) -> None:
    benchmark = read_benchmark(pair[1])
    benchmark.runs[0].via = "node"
    write_benchmark(benchmark, pair[1].parent)
    comparison = compare.compare_benchmarks(*pair)
    assert comparison.pairs[0].images == 0
    assert "no interval" in comparison.notes[0]


def test_few_images_are_pointed_out(tmp_path: Path) -> None:
    masks, weak, better = drawn(images=4)
    a = write_measured(tmp_path / "a", "m", masks, {"msp": weak})
    b = write_measured(tmp_path / "b", "m", masks, {"msp": better})
    assert "4 images are few" in compare.compare_benchmarks(a, b).notes[0]

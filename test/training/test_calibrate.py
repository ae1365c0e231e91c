"""Calibration: thresholds flag the share that was asked for, statistics are the classes' own."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import tiny_metadata, tiny_network

from anomaly_seg_ros.inference import Segmenter
from training.calibrate import PixelSample, calibrate_scores, class_statistics, sample_pixels


def normal_sample(shift: float, seed: int, count: int = 200_000) -> PixelSample:
    rng = np.random.default_rng(seed)
    score = (rng.normal(size=count) + shift).astype(np.float32)
    return PixelSample({"max_logit": score}, rng.integers(0, 3, count).astype(np.uint8))


@pytest.mark.parametrize("target", [0.01, 0.05])
def test_threshold_flags_the_target_share(target: float) -> None:
    inliers, outliers = normal_sample(0, 1), normal_sample(3, 2)
    calibration = calibrate_scores(inliers, outliers, target)["max_logit"]
    unit = calibration.to_unit(inliers.scores["max_logit"])
    assert (unit >= 0.5).mean() == pytest.approx(target, rel=0.05)
    for rate in (0.9, 0.5):
        threshold = calibration.threshold_for_tpr(rate)
        flagged = (calibration.to_unit(outliers.scores["max_logit"]) >= threshold).mean()
        assert flagged == pytest.approx(rate, abs=0.01)


def test_statistics_of_each_predicted_class() -> None:
    sample = normal_sample(-8, 3)
    statistics = class_statistics(sample, 5)
    largest = -sample.scores["max_logit"]
    for c in range(3):
        chosen = largest[sample.predicted == c]
        assert float(statistics.mean[c]) == pytest.approx(chosen.mean(), rel=1e-4)
        assert float(statistics.std[c]) == pytest.approx(chosen.std(), rel=1e-3)
    # Never predicted: the statistics of all pixels stand in.
    assert float(statistics.mean[4]) == pytest.approx(largest.mean(), rel=1e-4)


def test_only_chosen_pixels_are_sampled() -> None:
    segmenter = Segmenter(tiny_network(), tiny_metadata(), "cpu")
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    mask = np.zeros((64, 96), bool)
    mask[10:12, 20:25] = True
    sample = sample_pixels(segmenter, [(image, mask)], ("max_logit",), 1000)
    expected = segmenter.predict(image).scores["max_logit"][mask]
    np.testing.assert_array_equal(sample.scores["max_logit"], expected)
    assert sample_pixels(segmenter, [(image, mask)] * 3, ("energy",), 4).predicted.size == 12

"""Figures of single frames and their means."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from anomaly_seg_ros.metrics.fpr import CONVENTIONS, FIRST_AT_LEAST
from anomaly_seg_ros.metrics.pixel_scores import PixelScores


def frame(seed: int, levels: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = rng.choice([0, 1, 255], (30, 40), p=[0.8, 0.15, 0.05]).astype(np.uint8)
    score = rng.normal(size=mask.shape) + (mask == 1) * rng.uniform(0, 2)
    if levels:
        score = np.round(score * levels) / levels
    return score.astype(np.float32), mask


def test_means_agree_with_scikit_learn_frame_by_frame() -> None:
    pixels, expected = PixelScores(), []
    for seed in range(6):
        score, mask = frame(seed, levels=seed % 3)
        pixels.update(score, mask, f"frame {seed}")
        truth, values = mask[mask < 2], score[mask < 2]
        fpr, tpr, _ = roc_curve(truth, values, drop_intermediate=False)
        expected.append(
            (
                average_precision_score(truth, values),
                roc_auc_score(truth, values),
                fpr[np.argmax(tpr >= 0.95)],
            )
        )
    means = pixels.compute().per_image
    figures = [means.AP, means.AUROC, means.FPR95]
    assert figures == pytest.approx(np.mean(expected, axis=0).tolist(), abs=1e-12)
    assert (means.frames, means.left_out) == (6, 0)
    assert means.fpr95.keys() == CONVENTIONS.keys()
    assert means.fpr95[FIRST_AT_LEAST] == means.FPR95
    for kept, (ap, auroc, fpr95) in zip(pixels.frames, expected, strict=True):
        assert (kept.AP, kept.AUROC, kept.FPR95[FIRST_AT_LEAST]) == pytest.approx(
            (ap, auroc, fpr95), abs=1e-12
        )
    assert [kept.name for kept in pixels.frames] == [f"frame {seed}" for seed in range(6)]


def test_frames_without_one_kind_are_left_out_and_counted() -> None:
    score, mask = frame(1)
    alone = PixelScores()
    alone.update(score, mask)
    pixels = PixelScores()
    pixels.update(score, mask)
    pixels.update(score, np.where(mask == 1, 255, mask))
    pixels.update(score, np.ones_like(mask))
    means = pixels.compute().per_image
    assert (means.AP, means.frames, means.left_out) == (alone.compute().per_image.AP, 1, 2)
    # Pooled figures count these frames' pixels.
    assert pixels.compute().AP != alone.compute().AP


def test_nothing_to_average_is_nan() -> None:
    pixels = PixelScores()
    pixels.update(np.zeros((2, 2), np.float32), np.zeros((2, 2), np.uint8))
    means = pixels.compute().per_image
    assert np.isnan([means.AP, means.AUROC, means.FPR95, *means.fpr95.values()]).all()
    assert (means.frames, means.left_out) == (0, 1)


def test_one_collection_that_kept_no_frames_leaves_the_sum_without() -> None:
    kept, pooled = PixelScores(), PixelScores(per_image=False)
    kept.update(*frame(1))
    pooled.update(*frame(2))
    assert pooled.compute().per_image is None
    kept.merge(pooled)
    assert kept.compute().per_image is None

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.metrics.resampling import pooled_figures
from training.study.image_scores import ImageScores, read_histograms, save_histograms


def frames(shape: str, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Five frames of a kind of score, with 0.5 % anomalous and some ignored pixels."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(5):
        mask = rng.choice(np.array([0, 1, 255], np.uint8), (300, 400), p=[0.8, 0.005, 0.195])
        logit = rng.normal(0, 2, mask.shape) + 3 * (mask == 1) + rng.normal(0, 0.5)
        score = {
            "energy": -10 + logit,
            # Most pixels close to its lower end, -1, where float32 is coarsest.
            "msp": -1 / (1 + np.exp(2 * logit - 8)),
            "ties": np.round(logit),
        }[shape]
        made.append((score.astype(np.float32), mask))
    return made


@pytest.mark.parametrize("shape", ["energy", "msp", "ties"])
def test_figures_of_the_histograms_agree_with_the_exact_ones_to_a_tenth_of_a_point(
    shape: str, tmp_path: Path
) -> None:
    """Over all images, and over images that are drawn more than once or not at all."""
    images = ImageScores()
    made = frames(shape, 1)
    for i, (score, mask) in enumerate(made):
        images.add(f"frame {i}", score, mask)
    save_histograms(tmp_path / "images.npz", {"street": {"energy": images.finish()}})
    table = read_histograms(tmp_path / "images.npz")["street"]["energy"]
    assert table.names == tuple(f"frame {i}" for i in range(5))
    assert table.positives.shape[1] < 3100
    weights = np.array([[1, 1, 1, 1, 1], [0, 2, 1, 2, 0], [3, 0, 0, 1, 1]], np.float64)
    figures = pooled_figures(weights, table.positives, table.negatives)
    for row, counts in enumerate(weights.astype(int)):
        drawn = [made[i] for i, count in enumerate(counts) for _ in range(count)]
        scores = np.concatenate([score[mask != 255] for score, mask in drawn])
        labels = np.concatenate([mask[mask != 255] for _, mask in drawn])
        fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
        exact = {
            "AP": average_precision_score(labels, scores),
            "AUROC": roc_auc_score(labels, scores),
        }
        if shape != "ties":
            # Where one score holds several per cent of the pixels, FPR95 is read inside of it.
            exact["FPR95"] = fpr[np.argmax(tpr >= 0.95)]
        for name, value in exact.items():
            assert figures[name][row] == pytest.approx(value, abs=0.001), (name, row)


def test_counts_of_each_image_are_kept() -> None:
    images = ImageScores()
    made = frames("energy", 2)
    for i, (score, mask) in enumerate(made):
        images.add(str(i), score, mask)
    table = images.finish()
    for value, counts in ((1, table.positives), (0, table.negatives)):
        assert counts.sum(1).tolist() == [int((mask == value).sum()) for _, mask in made]


def test_a_damaged_file_is_an_error_of_one_line(tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    path.write_bytes(b"PK")
    with pytest.raises(ParameterError, match=r"images\.npz: cannot read the images' histograms"):
        read_histograms(path)

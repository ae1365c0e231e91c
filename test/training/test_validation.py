# SPDX-License-Identifier: Apache-2.0
"""Validation figures against scikit-learn; held-out mixes are fixed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch.nn import functional as F

from anomaly_seg_ros.contract import NetworkOutput, SegmentationNetwork
from anomaly_seg_ros.labels import OUTLIER_ID, UNKNOWN_ID
from anomaly_seg_ros.models.input_scaling import InputScaling
from training.data.corpora import Corpus
from training.data.held_out import MaskedFrame, mixed_frames
from training.validation import Viewer, anomaly_figures, closed_set_matrix

SCALING = InputScaling((0.0,) * 3, (1.0,) * 3)
VIEWER = Viewer(SCALING, torch.device("cpu"), (16, 24), 3)


class RedGreenBlue(SegmentationNetwork):
    """Logits that are the colours, and a fourth one that no one may see."""

    def forward(self, images: torch.Tensor) -> NetworkOutput:
        logits = torch.cat([images, 100 * torch.ones_like(images[:, :1])], 1)
        return NetworkOutput(images, logits)


class Coarse(SegmentationNetwork):
    """The colours at a quarter of the resolution."""

    def __init__(self, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners

    def forward(self, images: torch.Tensor) -> NetworkOutput:
        return NetworkOutput(images, F.avg_pool2d(images, 4))


def random_image(seed: int, size: tuple[int, int] = (16, 24)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def test_closed_set_matrix_counts_the_argmax() -> None:
    images = [random_image(i) for i in range(2)]
    labels = [
        np.random.default_rng(9 + i).integers(0, 3, (16, 24)).astype(np.uint8) for i in (0, 1)
    ]
    labels[0][:4] = 255
    matrix = closed_set_matrix(RedGreenBlue(), Corpus.of_arrays("c", images, labels), VIEWER)
    hits = sum(int((x.argmax(2) == y).sum()) for x, y in zip(images, labels, strict=True))
    assert np.diagonal(matrix.counts).sum() == hits
    assert matrix.counts.sum() == 2 * 16 * 24 - 4 * 24


def test_anomaly_figures_are_pooled_over_the_frames() -> None:
    frames, scores, targets = [], [], []
    for i in range(3):
        image = random_image(i)
        mask = np.random.default_rng(20 + i).choice([0, 1, 255], (16, 24), p=[0.7, 0.2, 0.1])
        frames.append(MaskedFrame(f"f{i}", image, mask.astype(np.uint8)))
        scores.append(-image.max(2)[mask != 255] / 255.0)
        targets.append(mask[mask != 255])
    figures = anomaly_figures(RedGreenBlue(), frames, VIEWER, ("max_logit", "energy"), "x")
    expected = average_precision_score(np.concatenate(targets), np.concatenate(scores))
    assert figures["x_max_logit_ap"] == pytest.approx(expected, rel=1e-6)
    assert set(figures) == {
        f"x_{score}_{figure}" for score in ("max_logit", "energy") for figure in ("ap", "fpr95")
    }


def test_images_are_brought_to_the_size_and_results_back() -> None:
    image = np.zeros((32, 48, 3), np.uint8)
    image[:, :24, 0] = 255
    image[:, 24:, 2] = 255
    label = np.where(np.arange(48) < 24, 0, 2).astype(np.uint8)[None].repeat(32, 0)
    matrix = closed_set_matrix(RedGreenBlue(), Corpus.of_arrays("c", [image], [label]), VIEWER)
    assert matrix.pixel_accuracy() == 1


@pytest.mark.parametrize("align_corners", [True, False])
def test_outputs_are_upsampled_as_the_network_says(align_corners: bool) -> None:
    network, image = Coarse(align_corners), random_image(3)

    def large(maps: torch.Tensor) -> torch.Tensor:
        return F.interpolate(maps, (16, 24), mode="bilinear", align_corners=align_corners)[0]

    logits = VIEWER.output(network, image).logits
    label = large(logits).argmax(0).numpy().astype(np.uint8)
    matrix = closed_set_matrix(network, Corpus.of_arrays("c", [image], [label]), VIEWER)
    assert matrix.pixel_accuracy() == 1
    # Outliers are the half of the pixels with the highest score.
    score = large(-logits.amax(1, keepdim=True))[0]
    mask = (score > score.median()).numpy().astype(np.uint8)
    frames = [MaskedFrame("f", image, mask)]
    assert anomaly_figures(network, frames, VIEWER, ("max_logit",), "x")["x_max_logit_ap"] == 1


def corner_mixer(frame, labels, rng, squeeze):
    """Marks a random pixel as outlier, the next row as rim."""
    target = labels.copy()
    target[0, rng.integers(8)] = OUTLIER_ID
    target[1] = UNKNOWN_ID
    return frame + np.uint8(squeeze), target


def test_held_out_mixes_are_the_same_every_time() -> None:
    labels = [np.zeros((4, 8), np.uint8) for _ in range(4)]
    labels[0][2] = 255
    images = [np.full((4, 8, 3), i, np.uint8) for i in range(4)]
    corpora = [
        Corpus.of_arrays("a", images, labels),
        Corpus.of_arrays("b", images[:1], labels[:1], aspect=4.0),
    ]
    first = mixed_frames(corpora, corner_mixer, 4, seed=5)
    again = mixed_frames(corpora, corner_mixer, 4, seed=5)
    other = mixed_frames(corpora, corner_mixer, 4, seed=6)
    assert [x.mask.tolist() for x in first] == [x.mask.tolist() for x in again]
    assert [x.mask.tolist() for x in first] != [x.mask.tolist() for x in other]
    # Two frames of each corpus, spread over it; b is stored squeezed to half its width.
    assert [int(x.image[0, 0, 0]) for x in first] == [0 + 1, 0 + 2, 2 + 1, 0 + 2]
    mask = first[0].mask
    assert (mask[0] == 1).sum() == 1
    assert (mask[1] == 255).all()
    assert (mask[2] == 255).all()
    assert (mask[3] == 0).all()

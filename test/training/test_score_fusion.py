"""The weight of the outlier head in the fused score, against a search by scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from tiny import tiny_metadata, tiny_network
from torch import nn

from anomaly_seg_ros import scores
from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.errors import ParameterError
from training.data.held_out import MaskedFrame
from training.score_fusion import SCALES, average_precision, fuse_scores
from training.validation import Viewer

SIZE = (64, 96)


def frames(count: int = 3) -> list[MaskedFrame]:
    rng = np.random.default_rng(0)
    found = []
    for index in range(count):
        image = rng.integers(0, 256, (*SIZE, 3), np.uint8)
        mask = rng.choice(np.array([0, 1, 255], np.uint8), SIZE, p=(0.7, 0.2, 0.1))
        found.append(MaskedFrame(f"frame {index}", image, mask))
    return found


def viewer() -> Viewer:
    metadata = tiny_metadata()
    return Viewer(metadata.input_scaling, torch.device("cpu"), SIZE, len(metadata.classes))


def output(network: nn.Module, frame: MaskedFrame) -> NetworkOutput:
    return viewer().output(network, frame.image)


def pooled_ap(network: nn.Module, score: str) -> float:
    values, truth = [], []
    for frame in frames():
        raw = scores.compute(score, output(network, frame))[0].numpy()
        step = SIZE[0] // raw.shape[0]
        mask = frame.mask[step // 2 :: step, step // 2 :: step]
        values.append(raw[mask != 255])
        truth.append(mask[mask != 255])
    return average_precision_score(np.concatenate(truth), np.concatenate(values))


def test_the_best_scale_is_the_one_that_scikit_learn_finds() -> None:
    by_scale = {}
    for scale in SCALES:
        network = tiny_network(outlier_head=True).eval()
        network.outlier_head.conv.weight.data.mul_(scale)
        network.outlier_head.conv.bias.data.mul_(scale)
        by_scale[scale] = pooled_ap(network, "k_plus_1")
    network = tiny_network(outlier_head=True).eval()
    chosen = fuse_scores(network, frames(), viewer())
    assert by_scale[chosen] == pytest.approx(max(by_scale.values()), abs=1e-6)
    assert pooled_ap(network, "k_plus_1") == pytest.approx(by_scale[chosen], abs=1e-6)


def test_logits_stay_and_the_log_odds_of_the_head_are_scaled() -> None:
    before = tiny_network(outlier_head=True).eval()
    after = tiny_network(outlier_head=True).eval()
    scale = fuse_scores(after, frames(), viewer())
    frame = frames()[0]
    old, new = output(before, frame), output(after, frame)
    assert torch.equal(old.logits, new.logits)
    torch.testing.assert_close(new.ood_logits.diff(dim=1), scale * old.ood_logits.diff(dim=1))


def test_average_precision_is_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=500).astype(np.float32)
    mask = rng.integers(0, 2, 500).astype(np.uint8)
    expected = average_precision_score(mask, values)
    found = average_precision(torch.from_numpy(values), torch.from_numpy(mask))
    assert found == pytest.approx(expected, abs=1e-9)


def test_frames_without_outliers_are_refused() -> None:
    empty = [frame._replace(mask=np.zeros(SIZE, np.uint8)) for frame in frames()]
    with pytest.raises(ParameterError, match="fuse_scores: needs held-out frames with outliers"):
        fuse_scores(tiny_network(outlier_head=True).eval(), empty, viewer())

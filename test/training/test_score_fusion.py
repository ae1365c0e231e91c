# SPDX-License-Identifier: Apache-2.0
"""The weight of the outlier head in the fused score, against a search by scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_curve
from tiny import tiny_metadata, tiny_network
from torch import nn

from anomaly_seg_ros import scores
from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.errors import ParameterError
from training.data.held_out import MaskedFrame
from training.score_fusion import SCALES, fpr95, fuse_scores
from training.validation import Viewer

SIZE = (64, 96)


def frames(count: int = 3, seed: int = 0) -> list[MaskedFrame]:
    rng = np.random.default_rng(seed)
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


def false_positive_rate(truth: np.ndarray, values: np.ndarray) -> float:
    rates, found, _ = roc_curve(truth, values, drop_intermediate=False)
    return rates[np.argmax(found >= 0.95)]


def pooled_fpr95(network: nn.Module, kind: list[MaskedFrame]) -> float:
    values, truth = [], []
    for frame in kind:
        raw = scores.compute("k_plus_1", output(network, frame))[0].numpy()
        step = SIZE[0] // raw.shape[0]
        mask = frame.mask[step // 2 :: step, step // 2 :: step]
        values.append(raw[mask != 255])
        truth.append(mask[mask != 255])
    return false_positive_rate(np.concatenate(truth), np.concatenate(values))


@pytest.mark.parametrize("kinds", [(frames(), []), (frames(), frames(5, seed=1))])
def test_the_best_scale_is_the_one_that_scikit_learn_finds(
    kinds: tuple[list[MaskedFrame], ...],
) -> None:
    def mean(network: nn.Module) -> float:
        return float(np.mean([pooled_fpr95(network, kind) for kind in kinds if kind]))

    by_scale = {}
    for scale in SCALES:
        network = tiny_network(outlier_head=True).eval()
        network.outlier_head.conv.weight.data.mul_(scale)
        network.outlier_head.conv.bias.data.mul_(scale)
        by_scale[scale] = mean(network)
    network = tiny_network(outlier_head=True).eval()
    chosen = fuse_scores(network, kinds, viewer())
    assert by_scale[chosen] == pytest.approx(min(by_scale.values()), abs=1e-6)
    assert mean(network) == pytest.approx(by_scale[chosen], abs=1e-6)
    assert min(by_scale.values()) < max(by_scale.values())


def test_logits_stay_and_the_log_odds_of_the_head_are_scaled() -> None:
    before = tiny_network(outlier_head=True).eval()
    after = tiny_network(outlier_head=True).eval()
    scale = fuse_scores(after, [frames()], viewer())
    frame = frames()[0]
    old, new = output(before, frame), output(after, frame)
    assert torch.equal(old.logits, new.logits)
    torch.testing.assert_close(new.ood_logits.diff(dim=1), scale * old.ood_logits.diff(dim=1))


def test_fpr95_is_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=500).astype(np.float32)
    mask = rng.integers(0, 2, 500).astype(np.uint8)
    found = fpr95(torch.from_numpy(values), torch.from_numpy(mask))
    assert found == pytest.approx(false_positive_rate(mask, values), abs=1e-9)


def test_frames_without_outliers_are_refused() -> None:
    empty = [frame._replace(mask=np.zeros(SIZE, np.uint8)) for frame in frames()]
    with pytest.raises(ParameterError, match="fuse_scores: needs held-out frames with outliers"):
        fuse_scores(tiny_network(outlier_head=True).eval(), [empty], viewer())

# SPDX-License-Identifier: Apache-2.0
"""Each score against its formula in float64, written out with NumPy."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from anomaly_seg_ros import scores
from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.scores import ClassStatistics

SHAPE = (2, 19, 5, 7)


@pytest.fixture
def logits() -> torch.Tensor:
    return 8 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


def softmax64(logits: torch.Tensor) -> np.ndarray:
    x = logits.numpy().astype(np.float64)
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_msp(logits: torch.Tensor) -> None:
    expected = 1 - softmax64(logits).max(1)
    np.testing.assert_allclose(scores.msp(logits).numpy(), expected, rtol=1e-5, atol=1e-12)


def test_msp_keeps_the_order_of_confident_pixels() -> None:
    logits = torch.zeros(1, 3, 1, 2)
    logits[0, 0, 0] = torch.tensor([30.0, 31.0])
    less, more = scores.msp(logits)[0, 0].flip(0)
    assert 0 < less < more  # 1 - p would be 0 for both in float32


def test_entropy(logits: torch.Tensor) -> None:
    p = softmax64(logits)
    expected = -(p * np.log(p)).sum(1)
    np.testing.assert_allclose(scores.entropy(logits).numpy(), expected, rtol=1e-4, atol=1e-6)


def test_max_logit(logits: torch.Tensor) -> None:
    np.testing.assert_array_equal(scores.max_logit(logits).numpy(), -logits.numpy().max(1))


def test_energy(logits: torch.Tensor) -> None:
    expected = -np.log(np.exp(logits.numpy().astype(np.float64)).sum(1))
    np.testing.assert_allclose(scores.energy(logits).numpy(), expected, rtol=1e-5)


def test_max_min_logit(logits: torch.Tensor) -> None:
    x = logits.numpy()
    np.testing.assert_array_equal(scores.max_min_logit(logits).numpy(), x.min(1) - x.max(1))


def test_standardized_max_logit(logits: torch.Tensor) -> None:
    rng = np.random.default_rng(1)
    mean, std = rng.normal(size=19), rng.uniform(0.5, 3, 19)
    statistics = ClassStatistics(torch.tensor(mean).float(), torch.tensor(std).float())
    x = logits.numpy().astype(np.float64)
    predicted = x.argmax(1)
    expected = -(x.max(1) - mean[predicted]) / std[predicted]
    actual = scores.standardized_max_logit(logits, statistics).numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_dense_hybrid(logits: torch.Tensor) -> None:
    ood_logits = 3 * torch.randn((2, 2, 5, 7), generator=torch.Generator().manual_seed(2))
    expected = np.log(softmax64(ood_logits)[:, 1]) - np.log(
        np.exp(logits.numpy().astype(np.float64)).sum(1)
    )
    actual = scores.dense_hybrid(logits, ood_logits).numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_outlier_head(logits: torch.Tensor) -> None:
    ood_logits = 9 * torch.randn((2, 2, 5, 7), generator=torch.Generator().manual_seed(3))
    actual = scores.outlier_head(ood_logits).numpy()
    np.testing.assert_allclose(actual, np.log(softmax64(ood_logits)[:, 1]), rtol=1e-5, atol=1e-7)
    # The hybrid score is the sum of its two components.
    hybrid = scores.dense_hybrid(logits, ood_logits).numpy()
    np.testing.assert_allclose(actual + scores.energy(logits).numpy(), hybrid, rtol=1e-5)


def test_outlier_head_msp(logits: torch.Tensor) -> None:
    ood_logits = 3 * torch.randn((2, 2, 5, 7), generator=torch.Generator().manual_seed(4))
    expected = 1 - softmax64(ood_logits)[:, 0] * softmax64(logits).max(1)
    actual = scores.outlier_head_msp(logits, ood_logits).numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-12)


def test_outlier_head_msp_keeps_the_order_of_confident_pixels() -> None:
    logits = torch.zeros(1, 3, 1, 3)
    logits[0, 0, 0] = torch.tensor([31.0, 30.0, 31.0])
    ood_logits = torch.zeros(1, 2, 1, 3)
    ood_logits[0, 0, 0] = torch.tensor([40.0, 40.0, 25.0])
    most, middle, least = scores.outlier_head_msp(logits, ood_logits)[0, 0]
    assert 0 < most < middle < least  # 1 - p q would be 0 for all in float32


def test_k_plus_1(logits: torch.Tensor) -> None:
    """The log-odds of the last class in one softmax over the classes and the head's log-odds."""
    ood_logits = 3 * torch.randn((2, 2, 5, 7), generator=torch.Generator().manual_seed(5))
    joined = torch.cat([logits, ood_logits[:, 1:] - ood_logits[:, :1]], 1)
    p = softmax64(joined)[:, -1]
    actual = scores.k_plus_1(logits, ood_logits).numpy()
    np.testing.assert_allclose(actual, np.log(p / (1 - p)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", scores.SCORES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_higher_is_more_anomalous(name: str, dtype: torch.dtype) -> None:
    """A confident pixel scores below an undecided one, in every precision."""
    logits = torch.zeros(1, 19, 1, 2, dtype=dtype)
    logits[0, 3, 0, 0] = 12.0
    ood_logits = torch.tensor([[[[2.0, -2.0]], [[-2.0, 2.0]]]], dtype=dtype)
    statistics = ClassStatistics(torch.full((19,), 8.0), torch.full((19,), 2.0))
    score = scores.compute(name, NetworkOutput(logits, logits, ood_logits), statistics)
    assert score.shape == (1, 1, 2)
    assert score.dtype == torch.float32
    assert score[0, 0, 0] < score[0, 0, 1]


@pytest.mark.parametrize("score", scores.SCORES.values(), ids=scores.SCORES)
def test_every_score_is_documented(score: scores.Score) -> None:
    assert score.description.endswith(".")
    assert re.search(r"\((.* )?20\d\d\)|paper", score.source), score.source
    assert scores.SCORES[score.name] is score


@pytest.mark.parametrize(
    ("name", "needle"),
    [
        ("sml", "statistics"),
        ("dense_hybrid", "outlier head"),
        ("outlier_head", "'outlier_head' needs an outlier head"),
        ("outlier_head_msp", "'outlier_head_msp' needs an outlier head"),
        ("msq", "expected one of"),
    ],
)
def test_missing_ingredients_are_named(name: str, needle: str, logits: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=needle):
        scores.compute(name, NetworkOutput(logits, logits))

# SPDX-License-Identifier: Apache-2.0
"""OpenMax's Weibull tails against SciPy, its recalibration against plain loops in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from scipy.stats import weibull_min
from tiny_pixels import CLASSES, outputs, pixels, rows

from anomaly_seg_ros.contract import NetworkOutput
from anomaly_seg_ros.errors import ParameterError
from training.posthoc import TrainingPixels, build_posthoc
from training.posthoc.weibull import fit_weibull


@pytest.mark.parametrize("shape", [0.4, 1.0, 2.5, 30.0])
def test_the_fit_is_scipys(shape: float) -> None:
    drawn = weibull_min.rvs(shape, scale=3.0, size=(2, 50), random_state=1)
    shapes, scales = fit_weibull(torch.from_numpy(drawn))
    for values, found_shape, found_scale in zip(drawn, shapes, scales, strict=True):
        expected_shape, _, expected_scale = weibull_min.fit(values, floc=0)
        assert found_shape == pytest.approx(expected_shape, rel=1e-3)
        assert found_scale == pytest.approx(expected_scale, rel=1e-3)

        def likelihood(shape: float, scale: float, values: np.ndarray = values) -> float:
            return weibull_min.logpdf(values, shape, scale=scale).sum()

        found = likelihood(float(found_shape), float(found_scale))
        assert found >= likelihood(expected_shape, expected_scale) - 1e-9
        for factor in (0.999, 1.001):
            assert found > likelihood(factor * float(found_shape), float(found_scale))
            assert found > likelihood(float(found_shape), factor * float(found_scale))


def test_equal_distances_are_a_step() -> None:
    shape, scale = fit_weibull(torch.full((1, 20), 1.0, dtype=torch.float64))
    assert shape == pytest.approx(1e6, rel=1e-6)
    assert scale == pytest.approx(1.0)


def by_hand(
    training: TrainingPixels, v: np.ndarray, tail: int, top: int
) -> tuple[float, np.ndarray]:
    """Algorithm 2 for one pixel's logits: the unknown class's logit and the others'."""
    logits, labels = training.logits.double().numpy(), training.predicted.numpy()
    revised, unknown = v.copy(), 0.0
    for i, c in enumerate(np.argsort(-v)[:top], start=1):
        own = logits[labels == c]
        if len(own) < tail:
            continue
        mean = own.mean(0)
        distances = np.sort(np.linalg.norm(own - mean, axis=1))[-tail:]
        start = distances[0] - 1
        shape, _, scale = weibull_min.fit(distances, floc=start)
        far = weibull_min.cdf(np.linalg.norm(v - mean), shape, loc=start, scale=scale)
        weight = 1 - (top + 1 - i) / top * far
        revised[c] = v[c] * weight
        unknown += v[c] * (1 - weight)
    return unknown, revised


@pytest.mark.parametrize(("tail", "top"), [(20, 1), (20, 3), (30, 10), (2, 4)])
def test_openmax(tail: int, top: int) -> None:
    training, output = pixels(), outputs()
    expected, probabilities = [], []
    for v in rows(output.logits):
        unknown, revised = by_hand(training, v, tail, top)
        expected.append(unknown - logsumexp(revised))
        probabilities.append(softmax([unknown, *revised])[0])
    score = build_posthoc("openmax", pixels=training, tail=tail, top=top)
    found = score.of(output).flatten().double().numpy()
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(1 / (1 + np.exp(-found)), probabilities, rtol=1e-2, atol=1e-9)
    assert len({round(x, 3) for x in expected}) > 40


def test_a_class_with_few_pixels_keeps_its_logit() -> None:
    """Its pixels score as if there were no recalibration, minus the log of the sum and one."""
    training = pixels()
    counts = training.predicted.bincount(minlength=CLASSES)
    rare = int(counts.argmin())
    score = build_posthoc("openmax", pixels=training, tail=int(counts.min()) + 1, top=1)
    logits = torch.randn(1, CLASSES, 3, 3)
    logits[:, rare] += 60
    found = score.of(NetworkOutput(logits, logits))
    torch.testing.assert_close(found, -logits.logsumexp(1))


def test_bad_options() -> None:
    for options in ({"tail": 1}, {"top": 0}):
        with pytest.raises(ParameterError, match="at least 2 distances and 1 logit"):
            build_posthoc("openmax", pixels=pixels(), **options)
    with pytest.raises(ParameterError, match=r"'tail' is 500, but no class has more than \d+"):
        build_posthoc("openmax", pixels=pixels(), tail=500)

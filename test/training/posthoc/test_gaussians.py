# SPDX-License-Identifier: Apache-2.0
"""GDM and GMM against scikit-learn and SciPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.covariance import EmpiricalCovariance
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from tiny_pixels import CHANNELS, CLASSES, outputs, pixels, rows

from anomaly_seg_ros.errors import ParameterError
from training.posthoc import TrainingPixels, build_posthoc


@pytest.mark.parametrize("variance", [0.9, 1.0])
def test_gmm_is_scikit_learns(variance: float) -> None:
    """Its mixture, with each class's share, mean and covariance."""
    training, output = pixels(), outputs()
    features, labels = training.pre_logits.double().numpy(), training.predicted.numpy()
    pca = PCA(variance if variance < 1 else None, whiten=True, svd_solver="full").fit(features)
    z = pca.transform(features)
    parts = [z[labels == c] for c in range(CLASSES)]
    mixture = GaussianMixture(CLASSES)
    mixture.weights_ = np.array([len(x) for x in parts]) / len(z)
    mixture.means_ = np.stack([x.mean(0) for x in parts])
    mixture.covariances_ = np.stack([np.cov(x.T, bias=True) for x in parts])
    mixture.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(mixture.covariances_))
    expected = -mixture.score_samples(pca.transform(rows(output.pre_logits)))
    # scikit-learn scales the components by the variance over n - 1, this package by that over n.
    expected += pca.n_components_ / 2 * np.log(len(z) / (len(z) - 1))
    score = build_posthoc("gmm", pixels=training, variance=variance, shrinkage=0)
    np.testing.assert_allclose(score.of(output).flatten().numpy(), expected, rtol=1e-4)


def test_gmm_shrinks_rare_classes() -> None:
    """As if so many more pixels of each class had the covariance that all have in common."""
    training, output = pixels(150), outputs()
    features, labels = training.pre_logits.double().numpy(), training.predicted.numpy()
    center = features.mean(0)
    values, vectors = np.linalg.eigh(np.cov(features.T, bias=True))
    whiten = vectors / np.sqrt(values)
    z, at = (features - center) @ whiten, (rows(output.pre_logits) - center) @ whiten
    means = np.stack([z[labels == c].mean(0) for c in range(CLASSES)])
    common = np.cov((z - means[labels]).T, bias=True)
    logs = []
    for c in range(CLASSES):
        n = (labels == c).sum()
        covariance = (n * np.cov(z[labels == c].T, bias=True) + 40 * common) / (n + 40)
        logs.append(np.log(n / len(z)) + multivariate_normal(means[c], covariance).logpdf(at))
    score = build_posthoc("gmm", pixels=training, variance=1.0, shrinkage=40.0)
    expected = -logsumexp(logs, axis=0)
    np.testing.assert_allclose(score.of(output).flatten().numpy(), expected, rtol=1e-4)


def test_gdm_is_the_mahalanobis_distance() -> None:
    """Half of the smallest squared one, in the covariance around the classes' means."""
    training, output = pixels(), outputs()
    features, labels = training.pre_logits.double().numpy(), training.predicted.numpy()
    means = np.stack([features[labels == c].mean(0) for c in range(CLASSES)])
    shared = EmpiricalCovariance(assume_centered=True).fit(features - means[labels])
    at = rows(output.pre_logits)
    expected = np.min([shared.mahalanobis(at - mean) for mean in means], axis=0) / 2
    found = build_posthoc("gdm", pixels=training).of(output).flatten().double().numpy()
    offsets = found - expected
    np.testing.assert_allclose(offsets, offsets.mean(), atol=1e-4 * np.abs(expected).max())


def test_what_lies_far_from_every_class_scores_higher() -> None:
    training, output = pixels(), outputs()
    strange = torch.zeros(80, dtype=torch.bool)
    strange[::2] = True  # see outputs()
    for name in ("gdm", "gmm"):
        score = build_posthoc(name, pixels=training).of(output).flatten()
        assert score[strange].median() > score[~strange].quantile(0.95)


def test_classes_that_are_nowhere_predicted_do_not_count() -> None:
    training, output = pixels(), outputs()
    wider = torch.cat([training.logits, torch.full((len(training.logits), 3), -99.0)], 1)
    for name in ("gdm", "gmm"):
        few = build_posthoc(name, pixels=training)
        many = build_posthoc(name, pixels=TrainingPixels(training.pre_logits, wider))
        torch.testing.assert_close(few.of(output), many.of(output))


def test_too_few_pixels() -> None:
    with pytest.raises(ParameterError, match=r"'gdm': 5 training pixels.*lower option 'variance'"):
        build_posthoc("gdm", pixels=pixels(5))
    few = pixels(200)
    chosen = torch.cat(
        [(few.predicted == 0).nonzero()[:, 0], (few.predicted == 3).nonzero()[:2, 0]]
    )
    few = TrainingPixels(few.pre_logits[chosen], few.logits[chosen])
    with pytest.raises(ParameterError, match=f"only 2, .* covariances of {CHANNELS} components"):
        build_posthoc("gmm", pixels=few, variance=1.0, shrinkage=0)
    found = build_posthoc("gmm", pixels=few, variance=1.0).of(outputs())
    assert torch.isfinite(found).all()
    with pytest.raises(ParameterError, match="'shrinkage' is -1"):
        build_posthoc("gmm", pixels=few, shrinkage=-1)

# SPDX-License-Identifier: Apache-2.0
"""NECO and ViM against scikit-learn and the papers' formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import zoom
from scipy.special import logsumexp, softmax
from sklearn.covariance import EmpiricalCovariance
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from tiny_pixels import CHANNELS, CLASSES, classifier, outputs, pixels, rows
from torch import Tensor, nn

from anomaly_seg_ros.contract import NetworkOutput, SegmentationNetwork
from anomaly_seg_ros.errors import ParameterError
from training.posthoc import TrainingPixels, build_posthoc, classifier_origin


@pytest.mark.parametrize("variance", [0.5, 0.9, 1.0])
def test_neco(variance: float) -> None:
    training, output = pixels(), outputs()
    scaler = StandardScaler().fit(training.pre_logits.double().numpy())
    standard = scaler.transform(training.pre_logits.double().numpy())
    pca = PCA(variance if variance < 1 else None, svd_solver="full").fit(standard)
    z = scaler.transform(rows(output.pre_logits))
    ratio = np.linalg.norm(pca.transform(z), axis=1) / np.linalg.norm(z, axis=1)
    score = build_posthoc("neco", pixels=training, variance=variance)
    expected = -ratio * rows(output.logits).max(1)
    np.testing.assert_allclose(score.of(output).flatten().numpy(), expected, rtol=1e-4)
    plain = build_posthoc("neco", pixels=training, variance=variance, times_max_logit=False)
    np.testing.assert_allclose(plain.of(output).flatten().numpy(), -ratio, rtol=1e-4)


def test_neco_with_a_channel_that_never_fires() -> None:
    training, output = pixels(), outputs()
    silent = training.pre_logits.clone()
    silent[:, 2] = 0.1
    quiet = output._replace(pre_logits=output.pre_logits.clone())
    quiet.pre_logits[:, 2] = 0.1
    score = build_posthoc("neco", pixels=TrainingPixels(silent, training.logits)).of(quiet)
    kept = [0, 1, 3, 4, 5]
    fewer = build_posthoc("neco", pixels=TrainingPixels(silent[:, kept], training.logits))
    without = fewer.of(output._replace(pre_logits=output.pre_logits[:, kept]))
    torch.testing.assert_close(score, without, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("given", [True, False])
def test_vim(given: bool) -> None:
    """The paper's steps, and its probability of the virtual logit."""
    training, output = pixels(), outputs()
    weight, bias = classifier()
    features = training.pre_logits.double().numpy()
    origin = -np.linalg.pinv(weight) @ bias if given else features.mean(0)
    covariance = EmpiricalCovariance(assume_centered=True).fit(features - origin).covariance_
    values, vectors = np.linalg.eigh(covariance)
    residual_space = vectors[:, np.argsort(-values)[CHANNELS // 2 :]]
    residual = np.linalg.norm((features - origin) @ residual_space, axis=1)
    alpha = training.logits.double().numpy().max(1).sum() / residual.sum()
    z, logits = rows(output.pre_logits), rows(output.logits)
    virtual = alpha * np.linalg.norm((z - origin) @ residual_space, axis=1)
    probability = softmax(np.column_stack([logits, virtual]), axis=1)[:, -1]
    score = build_posthoc(
        "vim", pixels=training, origin=torch.from_numpy(origin) if given else None
    )
    found = score.of(output).flatten().double().numpy()
    np.testing.assert_allclose(found, virtual - logsumexp(logits, axis=1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(1 / (1 + np.exp(-found)), probability, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("name", ["neco", "vim", "gdm", "gmm"])
def test_maps_of_the_pre_logits_go_to_the_grid_of_the_logits(name: str) -> None:
    """Bilinear between pixel centres, as where a transposed convolution doubles the grid."""
    training = pixels()
    score = build_posthoc(name, pixels=training)
    coarse, fine = outputs((6, 10)), outputs((6, 10), upsampled=2)
    if name == "neco":
        score = build_posthoc(name, pixels=training, times_max_logit=False)
    small, large = score.of(coarse).double().numpy(), score.of(fine).double().numpy()
    if name == "vim":  # whose logits are not interpolated
        small += coarse.logits.logsumexp(1).double().numpy()
        large += fine.logits.logsumexp(1).double().numpy()
    assert large.shape == (2, 12, 20)
    expected = [zoom(x, 2, order=1, mode="nearest", grid_mode=True) for x in small]
    np.testing.assert_allclose(large, np.stack(expected), rtol=1e-4, atol=1e-4)


class Head(SegmentationNetwork):
    """A classifier alone."""

    num_classes = CLASSES
    pre_logits_channels = CHANNELS

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer.eval()

    def forward(self, images: Tensor) -> NetworkOutput:
        return NetworkOutput(images, self.classify(images))

    def classify(self, pre_logits: Tensor) -> Tensor:
        return self.layer(pre_logits)


def test_the_origin_is_where_the_logits_are_zero() -> None:
    """With more channels than classes there is such a point; the origin is the shortest one."""
    layer = nn.Conv2d(CHANNELS, CLASSES, 1)
    origin = classifier_origin(Head(layer))
    assert layer(origin.float()[None, :, None, None]).abs().max() < 1e-5
    weight = layer.weight.detach()[:, :, 0, 0].double().numpy()
    expected = -np.linalg.pinv(weight) @ layer.bias.detach().double().numpy()
    np.testing.assert_allclose(origin.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_the_origin_of_erfnet_is_that_of_the_mean_kernel(erfnet: nn.Module) -> None:
    layer = erfnet.decoder.output_conv
    weight = layer.weight.detach().mean((2, 3))[:, :19].double().numpy()  # (C, K)
    expected = -np.linalg.pinv(weight.T) @ layer.bias.detach()[:19].double().numpy()
    np.testing.assert_allclose(classifier_origin(erfnet).numpy(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Sequential(nn.ReLU(), nn.Conv2d(CHANNELS, CLASSES, 1)),
        nn.Conv2d(CHANNELS, CLASSES, 3, padding=1),
        nn.ConvTranspose2d(CHANNELS, CLASSES, 3, stride=2, padding=1, output_padding=1),
    ],
)
def test_heads_of_several_layers_have_no_origin(layer: nn.Module) -> None:
    torch.manual_seed(0)
    assert classifier_origin(Head(layer)) is None


@pytest.mark.parametrize(
    ("name", "options", "needle"),
    [
        ("neco", {"variance": 0}, "'neco': option 'variance' is 0"),
        ("neco", {"variance": 1.1}, "'variance' is 1.1"),
        ("vim", {"share": 1.0}, "'vim': option 'share' is 1.0"),
        ("vim", {}, "missing a required argument: 'pixels'"),
    ],
)
def test_bad_options(name: str, options: dict, needle: str) -> None:
    given = {"pixels": pixels(50), **options} if options else {}
    with pytest.raises(ParameterError, match=needle):
        build_posthoc(name, **given)


def test_features_without_variance() -> None:
    same = TrainingPixels(torch.ones(50, CHANNELS), torch.randn(50, CLASSES))
    with pytest.raises(ParameterError, match="are the same"):
        build_posthoc("neco", pixels=same)
    flat = pixels(200).pre_logits.clone()
    flat[:, 2:] = 0
    with pytest.raises(ParameterError, match="first 3 principal directions; lower option 'share'"):
        build_posthoc("vim", pixels=TrainingPixels(flat, torch.randn(200, CLASSES)))

# SPDX-License-Identifier: Apache-2.0
"""ODIN, ReAct, MC dropout and blurred scores against independent computations."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.special import logsumexp, softmax
from torch import nn

from anomaly_seg_ros.contract import NetworkOutput, SegmentationNetwork
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.models.erfnet import ERFNet
from anomaly_seg_ros.scores import ClassStatistics
from training.posthoc import POSTHOC, activation_percentile, build_posthoc, sample_pixels

STATISTICS = ClassStatistics(torch.zeros(19), torch.ones(19))
REQUIRED = {"react": {"threshold": 0.5}, "sml_smoothed": {"statistics": STATISTICS}}
FITTED = ("gdm", "gmm", "neco", "openmax", "vim")


class Linear(SegmentationNetwork):
    """Logits are a fixed linear map of the pixel: gradients can be written down."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(4, 3, generator=generator, dtype=torch.float64)

    def forward(self, images: torch.Tensor) -> NetworkOutput:
        return NetworkOutput(images, self.classify(images))

    def classify(self, pre_logits: torch.Tensor) -> torch.Tensor:
        return torch.einsum("kc,nchw->nkhw", self.weight.to(pre_logits.dtype), pre_logits)


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", POSTHOC)
def test_one_call_for_all(name: str, network: nn.Module, inputs: torch.Tensor) -> None:
    options = dict(REQUIRED.get(name, {}))
    if name == "mc_dropout" and not isinstance(network, ERFNet):
        options["pre_logits_dropout"] = 0.2
    if name in FITTED:
        options["pixels"] = sample_pixels(network, [inputs.flip(0)], 2000)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    score = build_posthoc(name, **options)(network, inputs)
    with torch.no_grad():
        grid = network(inputs).logits.shape[-2:]
    expected = inputs.shape[-2:] if name in ("smoothed", "sml_smoothed") else grid
    assert score.shape == (2, *expected)
    assert score.dtype == torch.float32
    assert not score.requires_grad
    assert torch.isfinite(score).all()
    assert not any(m.training for m in network.modules())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


def test_odin_moves_the_input_towards_confidence() -> None:
    """Against the gradient of ln max softmax, derived by hand for a linear network."""
    network = Linear()
    inputs = torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(2)).double()
    std = (0.5, 0.25, 2.0)
    temperature, magnitude = 20.0, 0.05
    w = network.weight.numpy()
    moved = np.empty((3, 4, 5))
    for i in range(4):
        for j in range(5):
            x = inputs[0, :, i, j].numpy()
            p = softmax(w @ x / temperature)
            gradient = (w[p.argmax()] - p @ w) / temperature
            moved[:, i, j] = x + magnitude / np.array(std) * np.sign(gradient)
    p = softmax(np.einsum("kc,chw->khw", w, moved) / temperature, axis=0)
    expected = 1 / 4 - p.max(0)
    score = build_posthoc("odin", temperature=temperature, magnitude=magnitude, std=std)
    np.testing.assert_allclose(score(network, inputs)[0].numpy(), expected, rtol=1e-5)


def test_odin_keeps_the_order_at_high_temperature() -> None:
    logits = torch.zeros(1, 19, 1, 64)
    logits[0, 0, 0] = torch.linspace(10, 10.01, 64)

    class Constant(SegmentationNetwork):
        def forward(self, images: torch.Tensor) -> NetworkOutput:
            return NetworkOutput(logits, logits + 0 * images.mean())

    score = build_posthoc("odin")(Constant(), torch.rand(1, 3, 8, 8))[0, 0]
    assert (score.diff() < 0).all()  # 1 - p would have a handful of values in float32


def test_odin_inside_inference_mode(erfnet: ERFNet, inputs: torch.Tensor) -> None:
    network, score = erfnet, build_posthoc("odin", magnitude=0.01)
    expected = score(network, inputs)
    with torch.inference_mode():
        torch.testing.assert_close(score(network, inputs + 0), expected)
    plain = build_posthoc("odin", magnitude=0.0)(network, inputs)
    assert expected.mean() < plain.mean()  # the moved input is more confident


def test_react_clips_the_pre_logits(network: nn.Module, inputs: torch.Tensor) -> None:
    with torch.no_grad():
        output = network(inputs)
    threshold = float(output.pre_logits.quantile(0.9))
    layer = network.get_submodule(network.trainable_parts["last_layer"][0])
    with torch.no_grad():
        logits = layer(output.pre_logits.clamp(max=threshold))[:, :19].double().numpy()
    score = build_posthoc("react", threshold=threshold)(network, inputs)
    np.testing.assert_allclose(score.numpy(), -logsumexp(logits, axis=1), rtol=1e-4, atol=1e-5)
    unclipped = build_posthoc("react", threshold=1e9)(network, inputs)
    torch.testing.assert_close(unclipped, -output.logits.logsumexp(1))
    assert not torch.allclose(unclipped, score)


def test_react_threshold_is_the_percentile(inputs: torch.Tensor) -> None:
    network = Linear()
    batches = [inputs[:1], inputs[1:]]
    exact = np.percentile(inputs.numpy(), 95)
    assert activation_percentile(network, batches, 95) == pytest.approx(exact)
    drawn = activation_percentile(network, batches, 95, per_batch=2000)
    assert drawn == pytest.approx(exact, abs=0.02)
    assert drawn == activation_percentile(network, batches, 95, per_batch=2000)
    with pytest.raises(ParameterError, match="at least one batch"):
        activation_percentile(network, [])
    with pytest.raises(ParameterError, match="percentile"):
        activation_percentile(network, batches, 0)


@pytest.mark.parametrize("score", ["predictive_entropy", "mutual_information"])
def test_mc_dropout_of_the_network(score: str, erfnet: ERFNet, inputs: torch.Tensor) -> None:
    network = copy.deepcopy(erfnet)
    actual = build_posthoc("mc_dropout", passes=3, score=score, seed=5)(network, inputs)
    for module in network.modules():
        if isinstance(module, nn.Dropout2d):
            module.train()
    torch.manual_seed(5)
    with torch.no_grad():
        passes = [softmax(network(inputs).logits.double().numpy(), axis=1) for _ in range(3)]
    mean = np.mean(passes, axis=0)
    expected = -(mean * np.log(mean)).sum(1)
    if score == "mutual_information":
        expected += np.mean([(p * np.log(p)).sum(1) for p in passes], axis=0)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-3, atol=1e-5)


def test_mc_dropout_keeps_the_random_state(erfnet: ERFNet, inputs: torch.Tensor) -> None:
    network = erfnet
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = build_posthoc("mc_dropout", passes=2)(network, inputs)
    assert torch.rand(1) == expected
    assert torch.equal(first, build_posthoc("mc_dropout", passes=2)(network, inputs))
    other = build_posthoc("mc_dropout", passes=2, seed=1)(network, inputs)
    assert not torch.equal(first, other)


def test_mc_dropout_needs_dropout(deeplab: nn.Module, inputs: torch.Tensor) -> None:
    with pytest.raises(ParameterError, match=r"DeepLabV3PlusLite has no dropout.*pre_logits"):
        build_posthoc("mc_dropout")(deeplab, inputs)


def test_mc_dropout_on_pre_logits(deeplab: nn.Module, inputs: torch.Tensor) -> None:
    network = deeplab
    options = {"passes": 4, "pre_logits_dropout": 0.3, "seed": 2, "score": "mutual_information"}
    actual = build_posthoc("mc_dropout", **options)(network, inputs)
    torch.manual_seed(2)
    with torch.no_grad():
        z = network(inputs).pre_logits
        passes = [
            network.classifier(z * (torch.empty_like(z).bernoulli_(0.7) / 0.7)).double()
            for _ in range(4)
        ]
    p = softmax(np.stack([x.numpy() for x in passes]), axis=2)
    mean = p.mean(0)
    expected = -(mean * np.log(mean)).sum(1) + (p * np.log(p)).sum(2).mean(0)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-2, atol=1e-5)


def test_blurred_energy(inputs: torch.Tensor) -> None:
    network = Linear()
    actual = build_posthoc("smoothed")(network, inputs)
    x = np.einsum("kc,nchw->nkhw", network.weight.numpy(), inputs.double().numpy())
    energy = -logsumexp(x, axis=1)
    expected = [gaussian_filter(e, 1.0, truncate=3, mode="mirror") for e in energy]
    np.testing.assert_allclose(actual.numpy(), np.stack(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "needle"),
    [
        ("magic", {}, "unknown post-hoc score 'magic', expected one of gdm, gmm, mc_dropout"),
        ("odin", {"noise": 1}, "'odin': got an unexpected keyword argument 'noise'"),
        ("odin", {"temperature": 0}, "positive temperature"),
        ("react", {}, "missing a required argument: 'threshold'"),
        ("react", {"threshold": 1.0, "score": "sml"}, "'score' is 'sml'"),
        ("mc_dropout", {"passes": 0}, "'passes' is 0"),
        ("mc_dropout", {"score": "variance"}, "predictive_entropy or mutual_information"),
        ("mc_dropout", {"pre_logits_dropout": 1.0}, "0 < p < 1"),
        ("smoothed", {"size": 4}, "odd"),
        ("smoothed", {"score": "sml"}, "'score' is 'sml'"),
    ],
)
def test_bad_options_are_one_clear_error(name: str, options: dict, needle: str) -> None:
    with pytest.raises(ParameterError, match=needle):
        build_posthoc(name, **options)

# SPDX-License-Identifier: Apache-2.0
"""Offsets are found again, and a balanced decision is left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from every_network import NETWORKS
from tiny_scenes import scenes

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.models.input_scaling import IMAGENET
from anomaly_seg_ros.models.registry import build_network
from training.class_bias import balance_classes, fit_class_bias
from training.networks import class_bias
from training.validation import Viewer


def clean_logits() -> tuple[torch.Tensor, np.ndarray]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (20_000,), generator=generator)
    logits = torch.randn(20_000, 4, generator=generator)
    logits[torch.arange(20_000), labels] += 3
    return logits, labels.numpy()


def accuracy(logits: torch.Tensor, labels: np.ndarray) -> float:
    return float((logits.argmax(1).numpy() == labels).mean())


def test_undoes_a_shift() -> None:
    logits, labels = clean_logits()
    shifted = logits + torch.tensor([0.0, 1.6, -0.8, 0.0])
    bias, figure = fit_class_bias(shifted, labels)
    assert accuracy(shifted, labels) < accuracy(logits, labels) - 0.05
    assert abs(accuracy(shifted + bias, labels) - accuracy(logits, labels)) < 0.005
    assert figure > 0.9
    assert abs(float(bias.mean())) < 1e-6


def test_leaves_a_balanced_decision_alone() -> None:
    logits, labels = clean_logits()
    bias, _ = fit_class_bias(logits, labels)
    assert bias.abs().max() < 0.3


def test_the_last_layer_is_balanced_whatever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """ERFNet's transposed convolution has a void output, which is none of the classes."""
    monkeypatch.setattr("training.class_bias._EVERY", 1)
    torch.manual_seed(0)
    network = build_network("erfnet", {"num_classes": 19}).eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    viewer = Viewer(IMAGENET, torch.device("cpu"), (64, 96), 19)
    balance_classes(network, scenes("a", 1), viewer)
    state = network.state_dict()
    changed = {key for key, value in state.items() if not torch.equal(value, before[key])}
    assert changed == {"decoder.output_conv.bias"}
    offsets = state["decoder.output_conv.bias"] - before["decoder.output_conv.bias"]
    assert offsets[:19].any()
    assert float(offsets[19]) == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_which_networks_can_be_balanced(name: str) -> None:
    architecture, arguments = NETWORKS[name]
    # A wrapped network is run to find its layers.
    with torch.device("cpu" if architecture == "wrapped" else "meta"):
        network = build_network(architecture, {"num_classes": 19, **arguments})
    if name.startswith("wide_resnet38") or name == "resnet101 plain":
        with pytest.raises(ParameterError, match="has no classifier with a bias"):
            class_bias(network)
    else:
        assert len(class_bias(network)) in (19, 20)

# SPDX-License-Identifier: Apache-2.0
"""PEBAL's extra output, added to both networks; test_networks.py takes it away again."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from anomaly_seg_ros.contract import SegmentationNetwork
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.models.registry import build_network
from training.losses.abstention import add_abstention

ARGUMENTS = {
    "deeplab_v3plus_lite": {"num_classes": 7, "decoder_channels": 16, "skip_channels": 8},
    "erfnet": {"num_classes": 7, "num_outputs": 9},
}


@pytest.mark.parametrize("architecture", ARGUMENTS)
def test_the_last_logit_is_that_of_the_mean_class(architecture: str) -> None:
    torch.manual_seed(0)
    network = build_network(architecture, ARGUMENTS[architecture]).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = network(images).logits
        logits = add_abstention(network)(images).logits
        assert logits.shape[1] == network.num_classes == 8
        torch.testing.assert_close(logits[:, :7], before)
        torch.testing.assert_close(logits[:, 7], before.mean(1))


@pytest.mark.parametrize("architecture", ARGUMENTS)
def test_the_state_dict_fits_a_network_with_one_class_more(architecture: str) -> None:
    network = add_abstention(build_network(architecture, ARGUMENTS[architecture]))
    arguments = {**ARGUMENTS[architecture], "num_classes": 8}
    if "num_outputs" in arguments:
        arguments["num_outputs"] = 8
    state = network.state_dict()
    fresh = build_network(architecture, arguments).state_dict()
    # ERFNet's encoder has a classifier of its own, which counts num_outputs too.
    differing = {k for k in fresh if fresh[k].shape != state[k].shape}
    assert differing <= {"encoder.output_conv.weight", "encoder.output_conv.bias"}


def test_another_last_layer_is_refused() -> None:
    network = SegmentationNetwork()
    network.num_classes = 3
    network.trainable_parts = {"last_layer": ("classifier",)}
    network.classifier = nn.Linear(4, 3)
    with pytest.raises(ParameterError, match="Linear"):
        add_abstention(network)

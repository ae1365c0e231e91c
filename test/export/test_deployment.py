# SPDX-License-Identifier: Apache-2.0
"""The exported graph is the Segmenter's arithmetic, from raw image to score."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_metadata, tiny_network
from torch import nn

from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.export.deployment import Deployment
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.models.registry import build_network
from anomaly_seg_ros.scores import SCORES
from benchmarks.variants import settle


def _network(align_corners: bool) -> nn.Module:
    # Unsettled, its maps are flat: any upsampling of them would do.
    network = settle(tiny_network(True), (64, 64))
    network.align_corners = align_corners
    return network


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("score", SCORES)
def test_gives_what_the_segmenter_gives(score: str, align_corners: bool) -> None:
    """The score and the labels of the logits, upsampled as the description says."""
    size = (64, 96)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    deployment = Deployment(_network(align_corners), tiny_metadata(True), score)
    corners = json.loads(deployment.description()["align_corners"])
    with torch.no_grad():
        outputs = deployment(torch.from_numpy(image).permute(2, 0, 1)[None])
    segmenter = Segmenter(
        _network(align_corners),
        tiny_metadata(True),
        device="cpu",
        precision="fp32",
        inference_size=size,
    )
    expected = segmenter.predict(image, (score,), confidence=False)

    def upsampled(x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, size=size, mode="bilinear", align_corners=corners)

    np.testing.assert_allclose(
        upsampled(outputs["score"][None])[0, 0].numpy(), expected.scores[score], atol=1e-4
    )
    labels = upsampled(outputs["logits"]).argmax(1)[0].numpy()
    assert (labels == expected.labels).mean() > 0.999


@pytest.mark.parametrize(
    ("architecture", "align_corners"),
    [
        ("deeplab_v3plus_lite", False),
        ("erfnet", False),
        ("wide_resnet38", True),
        ("resnet101", True),
        ("ladder_densenet121", False),
    ],
)
def test_describes_the_upsampling_of_each_network(architecture: str, align_corners: bool) -> None:
    """As the public codes upsample their logits."""
    with torch.device("meta"):  # no memory for their weights
        network = build_network(architecture, {})
    assert network.align_corners is align_corners
    described = Deployment(network, tiny_metadata(), "energy").description()["align_corners"]
    assert json.loads(described) is align_corners


def test_outputs_follow_the_network() -> None:
    plain = Deployment(tiny_network(), tiny_metadata(), "max_logit")
    assert plain.output_names == ("logits", "score")
    with_head = Deployment(tiny_network(True), tiny_metadata(True), "outlier_head")
    assert with_head.output_names == ("logits", "ood_logits", "score")
    image = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    for deployment in (plain, with_head):
        assert tuple(deployment(image)) == deployment.output_names


def test_float_images_are_the_same_images(deployment: Deployment) -> None:
    image = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        for of_bytes, of_floats in zip(
            deployment(image).values(), deployment(image.float()).values(), strict=True
        ):
            torch.testing.assert_close(of_bytes, of_floats, rtol=0, atol=0)


def test_refuses_a_score_that_the_model_lacks() -> None:
    with pytest.raises(ParameterError, match=r"'tiny'.*dense_hybrid.*outlier head"):
        Deployment(tiny_network(), tiny_metadata(), "dense_hybrid")
    with pytest.raises(ParameterError, match="sml"):
        Deployment(tiny_network(), tiny_metadata(statistics=None), "sml")


def test_description_is_plain_and_complete(deployment: Deployment) -> None:
    texts = deployment.description()
    facts = {k: json.loads(v) for k, v in texts.items()}
    metadata = tiny_metadata(True)
    assert facts["classes"] == list(metadata.classes)
    assert facts["mean"] == [0.5, 0.5, 0.5]
    assert facts["std"] == [0.5, 0.5, 0.5]
    assert (facts["size_multiple"], facts["output_stride"]) == (32, 4)
    assert facts["align_corners"] is False
    assert facts["score"] == "dense_hybrid"
    assert facts["threshold"] == metadata.calibration["dense_hybrid"].threshold
    restored = ModelMetadata.from_json(texts["anomaly_seg_ros"])
    assert restored.calibration == metadata.calibration

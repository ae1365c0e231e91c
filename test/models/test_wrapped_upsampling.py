# SPDX-License-Identifier: Apache-2.0
"""Foreign networks keep the grid of their own upsampling."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_foreign import CLASSES, Calibrated, Coarse, Foreign, LateAuxiliary, around
from torch import nn

from anomaly_seg_ros.checkpoints.loading import load_model, save_model
from anomaly_seg_ros.checkpoints.wrapping import wrap
from anomaly_seg_ros.errors import CheckpointError
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.models import wrapped as wrapped_module


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (Foreign(), False),
        (Foreign(corners=True), True),
        (Foreign(corners=True, mode="bicubic"), True),
        (Foreign(corners=False, mode="bicubic"), False),
        (Foreign(corners=None, mode="nearest"), False),
        (Coarse(), False),
    ],
    ids=["bilinear", "corners", "bicubic corners", "bicubic", "nearest", "none"],
)
def test_align_corners_is_that_of_the_networks_upsampling(own: nn.Module, expected: bool) -> None:
    network = around(own, pre_logits="head.1")
    assert network.align_corners is network.arguments["align_corners"] is expected


@pytest.mark.parametrize("corners", [False, True])
def test_a_large_bias_does_not_hide_align_corners(corners: bool) -> None:
    """Every interpolation is within the tolerance then; the best one counts."""
    own = Foreign(corners=corners)
    nn.init.constant_(own.head[3].bias, 1e3)
    nn.init.uniform_(own.head[3].weight, -1e-2, 1e-2)
    assert around(own, pre_logits="head.1").align_corners is corners


def test_align_corners_can_be_given() -> None:
    given = {"pre_logits": "head.1", "align_corners": True}
    assert around(Foreign(), **given).align_corners is True
    # Nothing can be found here.
    unseen = {"pre_logits": "head.1", "returns_logits": False}
    assert around(Calibrated(corners=True), **unseen).align_corners is False
    assert around(Calibrated(corners=True), **unseen, align_corners=True).align_corners is True
    with pytest.raises(CheckpointError, match="align_corners is 'no', expected true or false"):
        around(Foreign(), pre_logits="head.1", align_corners="no")


@pytest.mark.parametrize("corners", [False, True])
def test_labels_are_the_networks_own(registered: str, tmp_path: Path, corners: bool) -> None:
    """Before and after a file, on an image of the network's size."""
    torch.manual_seed(0)
    own = LateAuxiliary(19, corners=corners)
    network, metadata = wrap(
        own,
        factory=registered,
        factory_arguments={"corners": corners},
        pre_logits="head.1",
        size_multiple=4,
        inference_size=(64, 96),
    )
    path = tmp_path / "mine.safetensors"
    save_model(path, network, metadata)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    scaled = (image / 255 - metadata.mean) / metadata.std
    with torch.inference_mode():
        images = torch.from_numpy(scaled).permute(2, 0, 1)[None].float()
        labels = own.eval()(images)["out"].argmax(1)[0].numpy()
        logits = network(images).logits
    other = F.interpolate(logits, (64, 96), mode="bilinear", align_corners=not corners)
    assert (other.argmax(1)[0].numpy() != labels).mean() > 0.01  # else this would test nothing
    segmenters = [
        Segmenter(network, metadata, device="cpu", precision="fp32"),
        Segmenter.load(path, device="cpu", precision="fp32"),
    ]
    for segmenter in segmenters:
        # Folded BatchNorm rounds otherwise: a tie may fall to either side.
        assert (segmenter.predict(image).labels != labels).mean() < 0.001


def test_a_file_without_align_corners_is_read_as_before(
    registered: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files had no such entry once; they load, are not probed for it, and upsample as they did."""
    network, metadata = wrap(
        registered,
        factory_arguments={"corners": True},
        pre_logits="head.1",
        size_multiple=4,
        inference_size=(32, 32),
    )
    older = {k: v for k, v in metadata.arguments.items() if k != "align_corners"}
    path = tmp_path / "older.safetensors"
    save_model(path, network, replace(metadata, arguments=older))
    monkeypatch.setattr(wrapped_module, "probe", None)
    loaded, described = load_model(path)
    assert described.arguments == older
    assert loaded.align_corners is False


class CopyingHead(nn.Conv2d):
    """An outlier head that, like the package's, is given the class logits as well."""

    def forward(self, pre_logits: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return super().forward(pre_logits)


def test_outlier_logits_lie_on_the_grid_of_a_transposed_convolution() -> None:
    """The same map by both ways: whatever ``align_corners`` the network's last upsampling has."""
    own = Foreign(corners=True)
    own.head[3] = nn.ConvTranspose2d(12, CLASSES, 4, stride=2, padding=1, bias=False)
    network = around(own, pre_logits="head.1", outlier_head=True)
    assert (network.align_corners, network.output_stride) == (True, 2)
    # Both copy the first channel; the transposed convolution interpolates with this kernel.
    kernel = torch.tensor([0.25, 0.75, 0.75, 0.25])
    network.outlier_head = CopyingHead(12, 2, 1, bias=False)
    with torch.inference_mode():
        for weight in (own.head[3].weight, network.outlier_head.weight):
            weight.zero_()
        own.head[3].weight[0, 0] = kernel[:, None] * kernel
        network.outlier_head.weight[0, 0] = 1
        output = network(torch.randn(1, 3, 32, 48))
    inside = (slice(None), 0, slice(1, -1), slice(1, -1))
    assert output.logits[inside].std() > 0
    torch.testing.assert_close(output.ood_logits[inside], output.logits[inside])

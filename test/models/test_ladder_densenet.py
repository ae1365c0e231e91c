# SPDX-License-Identifier: Apache-2.0
"""LDN-121: its pooling, its trunk's ImageNet weights and its parts."""

from __future__ import annotations

import re

import pytest
import torch
from models.layout_facts import (
    build_empty,
    read_facts,
)
from torch import nn
from torch.export import Dim, export

from anomaly_seg_ros.errors import CheckpointError
from anomaly_seg_ros.models.densenet import DenseNet121, bn_relu_conv, remap_imagenet_keys
from anomaly_seg_ros.models.ladder_densenet import grid_level, traceable_cells
from anomaly_seg_ros.taxonomy import load_taxonomy

LAYOUT = "ladder_densenet121"


@pytest.mark.parametrize("rows", [8, 4, 2, 1])
@pytest.mark.parametrize("size", [(2, 3), (8, 8), (7, 20), (16, 5), (33, 64)])
def test_traceable_pooling_equals_pooling(size: tuple[int, int], rows: int) -> None:
    torch.manual_seed(rows)
    layer = bn_relu_conv(6, 4).eval()
    x = torch.randn(2, 6, *size)
    with torch.inference_mode():
        expected = grid_level(x, rows, layer)
        level = traceable_cells(x, rows, layer)
        actual = nn.functional.interpolate(level, size=size, mode="bilinear")
    assert level.shape == (2, 4, rows, size[1])
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_exported_pooling_takes_any_size() -> None:
    """Also sizes whose grid has one column, where the size of the example has many."""

    class Level(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = bn_relu_conv(6, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return grid_level(x, 2, self.layer)

    level = Level().eval()
    sizes = {2: Dim("h", min=2, max=64), 3: Dim("w", min=2, max=64)}
    program = export(level, (torch.randn(1, 6, 4, 9),), dynamic_shapes=(sizes,)).module()
    for size in ((4, 9), (9, 4), (12, 2), (8, 32)):
        x = torch.randn(1, 6, *size)
        torch.testing.assert_close(program(x), level(x), rtol=1e-4, atol=1e-4)


def test_imagenet_weights_fit_the_trunk() -> None:
    """Both spellings of torchvision's keys, the published file's without counters."""
    trunk = DenseNet121().state_dict()
    own_only = {"features.norm5.weight": torch.zeros(1024), "classifier.bias": torch.zeros(1000)}
    assert remap_imagenet_keys({**trunk, **own_only}).keys() == trunk.keys()
    published = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): value
        for key, value in trunk.items()
        if not key.endswith("num_batches_tracked")
    }
    renamed = remap_imagenet_keys({**published, **own_only})
    DenseNet121().load_state_dict(renamed, strict=True)
    assert (
        renamed["features.denseblock2.denselayer3.conv2.weight"]
        is (trunk["features.denseblock2.denselayer3.conv2.weight"])
    )
    del published["features.conv0.weight"]
    with pytest.raises(CheckpointError, match=r"features\.conv0\.weight"):
        remap_imagenet_keys(published)


def test_torchvision_has_these_imagenet_keys() -> None:
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    with torch.device("meta"):
        published = models.densenet121(weights=None).state_dict()
    assert remap_imagenet_keys(published).keys() == DenseNet121().state_dict().keys()


def test_parts_that_are_trained_leave_the_unused_classifiers_out() -> None:
    network = build_empty(LAYOUT, num_classes=12)
    trained = {
        f"{path}.{name}"
        for path in network.trainable_parts["all"]
        for name, _ in network.get_submodule(path).named_parameters()
    }
    left_out = {name for name, _ in network.named_parameters()} - trained
    assert len(left_out) == 3 * 4
    assert all(".logits_aux." in name for name in left_out)


def test_streethazards_has_the_classes_of_the_releases() -> None:
    taxonomy = load_taxonomy("streethazards")
    assert len(taxonomy.classes) == read_facts(LAYOUT)["arguments"]["num_classes"]
    assert taxonomy.classes.index("pedestrian") == 3  # raw label 5: 4, "other", is not trained

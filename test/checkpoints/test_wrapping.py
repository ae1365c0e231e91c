# SPDX-License-Identifier: Apache-2.0
"""Weights of other packages' networks keep their own names, wrappers' names go."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from anomaly_seg_ros.checkpoints.reading import read_checkpoint
from anomaly_seg_ros.checkpoints.wrapping import recognise_wrapped
from anomaly_seg_ros.taxonomy import numbered_taxonomy


class Inner(nn.Module):
    """A network whose own part is called like a wrapper."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Conv2d(8, num_classes, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        return nn.functional.interpolate(self.model(x), size=size, mode="bilinear")


@pytest.fixture
def factory(monkeypatch: pytest.MonkeyPatch) -> str:
    offered = SimpleNamespace(name="inner", load=lambda: Inner)
    monkeypatch.setattr("anomaly_seg_ros.models.external.entry_points", lambda group: [offered])
    return "inner"


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.", "model."])
def test_the_networks_own_names_stay(prefix: str, factory: str, save: Callable) -> None:
    torch.manual_seed(2)
    original = Inner(5).eval().state_dict()
    saved = {prefix + key: value for key, value in original.items()}
    saved[f"{prefix}criterion.weight"] = torch.ones(5)
    checkpoint = read_checkpoint(save({"state_dict": saved}))
    found = recognise_wrapped(checkpoint, factory, numbered_taxonomy(5), {"pre_logits": "model.1"})
    assert not found.misfit, str(found.misfit)
    assert found.changes[0].endswith("criterion.weight")
    loaded = found.load().network.state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in original.items())


def test_any_prefix_beside_strays(factory: str, save: Callable) -> None:
    original = Inner(5).state_dict()
    saved = {f"segmentor.{key}": value for key, value in original.items()}
    saved |= {"queue": torch.ones(2), "teacher.x": torch.ones(3)}
    found = recognise_wrapped(
        read_checkpoint(save(saved)), factory, numbered_taxonomy(5), {"pre_logits": "model.1"}
    )
    assert not found.misfit, str(found.misfit)
    assert all(torch.equal(found.tensors[f"network.{k}"], v) for k, v in original.items())
    assert found.changes[0].endswith("prefix 'segmentor.' (2 tensors): queue, teacher.x")


def test_averaged_weights(factory: str, save: Callable) -> None:
    original = Inner(5).eval()
    averaged = torch.optim.swa_utils.AveragedModel(original).state_dict()
    found = recognise_wrapped(
        read_checkpoint(save(averaged)), factory, numbered_taxonomy(5), {"pre_logits": "model.1"}
    )
    assert not found.misfit, str(found.misfit)
    assert found.changes[0].endswith("n_averaged")
    wanted = original.state_dict()
    assert all(torch.equal(found.tensors[f"network.{k}"], v) for k, v in wanted.items())


def test_half_matching_weights_are_a_misfit(factory: str, save: Callable) -> None:
    weights = Inner(5).state_dict()
    del weights["model.0.bias"]
    found = recognise_wrapped(
        read_checkpoint(save(weights)), factory, numbered_taxonomy(5), {"pre_logits": "model.1"}
    )
    assert found.misfit

# SPDX-License-Identifier: Apache-2.0
"""The brittle network raises what torch raises, when it is told to, and works otherwise."""

from __future__ import annotations

import pytest
import torch

from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.models.registry import ARCHITECTURES, build_network
from tools.fault_replay import network

IMAGE = torch.zeros(1, 3, 32, 48)


@pytest.fixture
def register(monkeypatch):
    """The registry and the switch of this process, put back after the test."""
    monkeypatch.setitem(ARCHITECTURES, network.BRITTLE, ("", ""))
    monkeypatch.setattr(network, "SWITCH", network.Switch())
    network.register()


@pytest.fixture
def brittle(register):
    return lambda: build_network(network.BRITTLE, {"num_classes": 5}).eval()


def test_works_until_it_is_told_to_fail(brittle):
    assert brittle()(IMAGE).logits.shape == (1, 5, 4, 6)


def test_runs_out_of_memory_so_many_times(brittle):
    net = brittle()
    network.SWITCH.out_of_memory(2)
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            net(IMAGE)
    net(IMAGE)
    assert network.SWITCH.fired["out of memory"] == 2


def test_a_lost_device_stays_lost_until_the_network_is_built_again(brittle):
    net = brittle()
    network.SWITCH.lose_device()
    for _ in range(3):
        with pytest.raises(RuntimeError, match="CUDA error"):
            net(IMAGE)
    brittle()(IMAGE)
    assert network.SWITCH.fired["device lost"] == 3


def test_a_stall_holds_one_frame_up(brittle, monkeypatch):
    slept = []
    monkeypatch.setattr(network.time, "sleep", slept.append)
    net = brittle()
    network.SWITCH.stall(0.25)
    net(IMAGE)
    net(IMAGE)
    assert slept == [0.25]


def test_both_models_are_loaded_like_any_other(tmp_path, register):
    network.save_brittle_model(tmp_path / "a.safetensors")
    network.save_small_model(tmp_path / "b.safetensors")
    for path in tmp_path.iterdir():
        segmenter = Segmenter.load(path, device="cpu")
        assert set(network.CALIBRATED) <= set(segmenter.available_scores)

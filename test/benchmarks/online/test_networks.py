"""Networks with random weights, and DenseHybrid's head and score without a network."""

from __future__ import annotations

from pathlib import Path

import torch

from anomaly_seg_ros.checkpoints.loading import load_model
from benchmarks.inspect_networks import time_head_and_score
from benchmarks.online.cases import model_file


def test_shipped_models_are_taken_as_they_are(tmp_path: Path) -> None:
    assert model_file("default", tmp_path) == "default"
    assert not list(tmp_path.iterdir())


def test_a_random_model_is_one_with_dense_hybrid_s_head(tmp_path: Path) -> None:
    path = model_file("random_erfnet", tmp_path)
    written = Path(path).stat().st_mtime_ns
    network, metadata = load_model(path)
    assert metadata.default_score == "dense_hybrid"
    assert metadata.architecture == "erfnet"
    with torch.no_grad():
        output = network.eval()(torch.randn(1, 3, 64, 128))
    assert output.logits.shape == (1, 19, 64, 128)
    assert output.ood_logits.shape == (1, 2, 64, 128)
    assert output.logits.std() > 0.05
    assert model_file("random_erfnet", tmp_path) == path
    assert Path(path).stat().st_mtime_ns == written  # once is enough


def test_head_and_score_have_the_shapes_of_the_network() -> None:
    entry = time_head_and_score("deeplab_v3plus_lite", (64, 128), "cpu", "fp32")
    assert entry["features"][2:] == [16, 32]  # a quarter of the image's
    assert entry["eager_ms"] > 0
    assert "graph_ms" not in entry

# SPDX-License-Identifier: Apache-2.0
"""The table of networks: published sizes, counted arithmetic, and weights that keep the scale."""

from __future__ import annotations

import pytest
import torch

from anomaly_seg_ros.models.outlier_head import OutlierHead
from benchmarks import inspect_networks
from benchmarks.variants import build_variant, settle


def _rows(capsys: pytest.CaptureFixture[str]) -> dict[str, list[str]]:
    return {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}


def test_counts_are_the_published_ones(capsys: pytest.CaptureFixture[str]) -> None:
    """Tensors and parameters of the public checkpoints; the head by hand."""
    networks = ["wide_resnet38", "resnet101", "resnet101_plain", "ladder_densenet121"]
    assert inspect_networks.main(["--no-time", "--only", *networks]) == 0
    rows = _rows(capsys)
    assert rows["wide_resnet38"][1:3] == ["268", "137.10"]
    assert rows["resnet101"][1:3] == ["701", "64.20"]
    assert rows["resnet101_plain"][2] == "59.34"
    assert float(rows["wide_resnet38"][3]) == pytest.approx(11650, rel=1e-3)
    assert float(rows["ladder_densenet121"][3]) == pytest.approx(412, rel=5e-3)
    # 304 -> 1 channel at half, 128 -> 1 at a quarter of the resolution, when folded.
    assert float(rows["wide_resnet38"][4]) == pytest.approx(2 * 304 * 512 * 1024 / 1e9, abs=6e-3)
    assert float(rows["ladder_densenet121"][4]) == pytest.approx(
        2 * 128 * 256 * 512 / 1e9, abs=6e-3
    )


def test_lines_begin_as_announced(capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect_networks.main(["--no-time", "--only", "wide_resnet38"]) == 0
    assert "\nwide_resnet38 268 137.10 11649.6 " in capsys.readouterr().out


def test_times_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--only", "erfnet", "--size", "64", "128", "--repeats", "2", "--device", "cpu"]
    assert inspect_networks.main(arguments) == 0
    captured = capsys.readouterr()
    erfnet = next(line for line in captured.out.splitlines() if line.startswith("erfnet")).split()
    milliseconds, runs, head, hybrid, overhead, max_logit = (float(v) for v in erfnet[5:])
    assert runs == 2
    assert min(milliseconds, head, hybrid, max_logit) > 0
    assert overhead == pytest.approx(head + hybrid, abs=0.02)
    assert "fp32" in captured.out


def test_the_head_s_part_is_the_forward_pass_s() -> None:
    """ERFNet's is upsampled to the grid of the logits."""
    network = build_variant("erfnet", outlier_head=True)
    with torch.no_grad():
        pre_logits, logits, ood_logits = network(torch.randn(1, 3, 64, 96))
        alone = inspect_networks.outlier_logits(network.outlier_head, pre_logits, logits)
    assert isinstance(network.outlier_head, OutlierHead)
    torch.testing.assert_close(alone, ood_logits)


@pytest.mark.parametrize("name", ["erfnet", "deeplab_v3plus_lite"])
def test_settled_weights_keep_the_scale(name: str) -> None:
    torch.manual_seed(0)
    network = settle(build_variant(name))
    momenta = {m.momentum for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert 1.0 not in momenta
    assert not any(m.training for m in network.modules())
    with torch.no_grad():
        logits = network(torch.randn(1, 3, 128, 128)).logits
    assert 0.05 < logits.std() < 20


def test_head_and_score_have_the_shapes_of_the_network() -> None:
    entry = inspect_networks.time_head_and_score("deeplab_v3plus_lite", (64, 128), "cpu", "fp32")
    assert entry["features"][2:] == [16, 32]  # a quarter of the image's
    assert entry["eager_ms"] > 0
    assert "graph_ms" not in entry

# SPDX-License-Identifier: Apache-2.0
"""Fitting the point-wise flow: it learns a known density, and to tell outliers from inliers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from tiny import save_tiny_model, tiny_network
from tiny_scenes import training_data

from anomaly_seg_ros.checkpoints.tensor_files import read_tensors
from anomaly_seg_ros.errors import ParameterError, TrainingError
from anomaly_seg_ros.models.input_scaling import InputScaling
from anomaly_seg_ros.taxonomy import load_taxonomy
from training.data.corpora import Corpus, TrainingData
from training.data.held_out import MaskedFrame
from training.data.mixing.mixer import Mixer, MixOptions
from training.data.negatives import NegativeObject
from training.flow import fit_pointwise as module
from training.flow.fit_pointwise import FitOptions, fit_pointwise, pixels_by_kind, pixels_of
from training.flow.pointwise_flow import PointwiseFlow, load_pointwise_flow
from training.validation import Viewer

QUICK = FitOptions(steps=120, batch=256, lr=1e-2)


def ring(count: int, seed: int = 0) -> torch.Tensor:
    """Points around a circle of radius 3: no Gaussian fits them."""
    generator = torch.Generator().manual_seed(seed)
    angle = 2 * math.pi * torch.rand(count, generator=generator)
    radius = 3 + 0.2 * torch.randn(count, generator=generator)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1)


def density(flow: PointwiseFlow, points: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return flow.log_density(points.T[None, :, None])[0, 0]


def test_it_learns_what_no_gaussian_can() -> None:
    torch.manual_seed(0)
    flow = PointwiseFlow(2, steps=4, width=24)
    history = fit_pointwise(flow, ring(4000), options=QUICK)
    held_out = ring(2000, seed=1)
    # The differential entropy of the ring, r ~ N(3, 0.2) and a uniform angle.
    ideal = -(math.log(2 * math.pi) + 0.5 * math.log(2 * math.pi * math.e * 0.04) + math.log(3))
    gaussian = -math.log(2 * math.pi * math.e * (9 + 0.04) / 2)
    reached = float(density(flow, held_out).mean())
    assert history[0] == pytest.approx(gaussian, abs=0.05)
    assert gaussian + 0.5 * (ideal - gaussian) < reached < ideal + 0.05
    # Where a Gaussian is densest.
    assert float(density(flow, torch.zeros(1, 2))) < reached - 0.5


def test_outliers_are_pushed_down_to_a_floor() -> None:
    generator = torch.Generator().manual_seed(0)
    inliers = torch.randn(4000, 2, generator=generator)
    outliers = 0.4 * torch.randn(4000, 2, generator=generator) + torch.tensor([1.5, 0.0])
    flows = []
    for negatives in (None, outliers):
        torch.manual_seed(0)
        flow = PointwiseFlow(2, steps=4, width=24)
        options = replace(QUICK, steps=60, outlier_weight=0.5)
        fit_pointwise(flow, inliers, negatives, options)
        flows.append(flow)
    is_outlier = np.repeat([0, 1], 4000)
    scores = [
        -torch.cat([density(flow, inliers), density(flow, outliers)]).numpy() for flow in flows
    ]
    without, with_negatives = (roc_auc_score(is_outlier, s) for s in scores)
    assert with_negatives > without + 0.1
    assert np.isfinite(scores[1]).all()


def test_same_seed_same_flow() -> None:
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        flow = PointwiseFlow(2, steps=2, width=8)
        fit_pointwise(flow, ring(500), options=FitOptions(steps=5, batch=64))
        results.append(density(flow, ring(10)))
    assert torch.equal(*results)


def test_pixels_are_the_networks_pre_logits() -> None:
    network = tiny_network()
    viewer = Viewer(InputScaling((0.5,) * 3, (0.5,) * 3), torch.device("cpu"), (64, 96), 19)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (64, 96, 3), dtype=np.uint8) for _ in range(2)]
    pixels = pixels_of(network, images, viewer, per_image=50)
    assert pixels.dtype == torch.float32
    pre_logits = [viewer.output(network, image).pre_logits[0] for image in images]
    assert pixels.shape == (100, pre_logits[0].shape[0])
    flat = pre_logits[1].flatten(1).T
    for pixel in pixels[50:55]:
        assert (flat == pixel).all(1).any()
    assert torch.equal(pixels, pixels_of(network, images, viewer, per_image=50))
    with pytest.raises(ParameterError, match="no image"):
        pixels_of(network, [], viewer, 50)


def test_pixels_by_kind_follow_the_mask() -> None:
    network = tiny_network()
    viewer = Viewer(InputScaling((0.5,) * 3, (0.5,) * 3), torch.device("cpu"), (64, 96), 19)
    image = np.random.default_rng(0).integers(0, 256, (128, 192, 3), dtype=np.uint8)
    mask = np.zeros((128, 192), np.uint8)
    mask[:, 64:] = 255
    mask[:64, 128:] = 1
    frame = MaskedFrame("noise", image, mask)
    inliers, outliers = pixels_by_kind(network, [frame, frame], viewer, per_image=30)
    assert inliers.dtype == outliers.dtype == torch.float32
    assert len(inliers) == len(outliers) == 60
    pre_logits = viewer.output(network, image).pre_logits[0]
    height, width = pre_logits.shape[1:]
    corners = {
        "inliers": (inliers, pre_logits[:, :, : width // 3]),
        "outliers": (outliers, pre_logits[:, : height // 2, 2 * width // 3 :]),
    }
    for name, (pixels, where) in corners.items():
        flat = where.flatten(1).T
        assert all((flat == pixel).all(1).any() for pixel in pixels), name
    with pytest.raises(ParameterError, match="no outlier pixel"):
        pixels_by_kind(network, [frame._replace(mask=np.zeros_like(mask))], viewer, 30)


def test_a_loss_that_is_not_finite_stops() -> None:
    pixels = ring(100)
    pixels[7] = math.nan
    with pytest.raises(TrainingError, match="step 0"):
        fit_pointwise(PointwiseFlow(2, steps=1), pixels, options=QUICK)


class Squares:
    """Black squares."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> NegativeObject:
        shape = np.ones((40, 40), bool)
        return NegativeObject(np.zeros((40, 40, 3), np.uint8), shape, "square", "a square")


def test_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (64, 96, 3), dtype=np.uint8) for _ in range(3)]
    corpus = Corpus.of_arrays("noise", images, [np.zeros((64, 96), np.uint8)] * 3)
    data = training_data(train=[corpus])
    monkeypatch.setattr(module, "TrainingData", lambda *_: data)
    model = save_tiny_model(tmp_path / "tiny.safetensors")
    output = tmp_path / "flow.safetensors"
    arguments = ["--output", str(output), "--device", "cpu", "--per-image", "20", "--steps", "5"]
    assert module.main([*arguments, "--model", str(model)]) == 0
    assert "60 pixels" in capsys.readouterr().out
    assert load_pointwise_flow(output).arguments["channels"] == tiny_network().pre_logits_channels
    assert module.main([*arguments, "--model", "missing"]) == 1
    assert "missing" in capsys.readouterr().err
    assert module.main([*arguments, "--model", str(model), "--images", "0"]) == 1
    assert "0 frames of every corpus" in capsys.readouterr().err

    mixers = []

    def mixer(mixing: dict, frames: TrainingData) -> Mixer:
        mixers.append((mixing["shadow"], mixing["probability"], frames))
        options = MixOptions(probability=1.0, scene_texture=0.0)
        return Mixer(Squares(), options, load_taxonomy())

    monkeypatch.setattr(module, "build_mixer", mixer)
    negatives = ["--negatives", "2", "--set", "mixing.shadow=0.25"]
    assert module.main([*arguments, "--model", str(model), *negatives]) == 0
    assert mixers == [(0.25, 1.0, data)]
    header = json.loads(read_tensors(output)[1]["pointwise_flow"])
    assert 60 < header["provenance"]["pixels"] <= 100
    assert 0 < header["provenance"]["outliers"] <= 40

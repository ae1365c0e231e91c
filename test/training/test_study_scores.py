# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score, roc_auc_score
from tiny import tiny_metadata, tiny_network

from anomaly_seg_ros.datasets import open_dataset
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.models.registry import build_network
from anomaly_seg_ros.scores import ClassStatistics
from training.flow.pointwise_flow import PointwiseFlow, flow_beside, save_pointwise_flow
from training.posthoc import build_posthoc, classifier_origin, sample_pixels
from training.study.measure import set_figures
from training.study.scores import STUDY_SCORES, ScoreBuilder, ScoreOptions, is_offered
from training.validation import Viewer

METADATA = tiny_metadata(outlier_head=True)
VIEWER = Viewer(METADATA.input_scaling, torch.device("cpu"), METADATA.inference_size, 19)
OPTIONS = ScoreOptions(dropout_passes=2, flow_pixels=400, flow_steps=3, fit_pixels=700)


def frame(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (80, 120, 3)).astype(np.uint8)


def no_frames() -> list[np.ndarray]:
    raise AssertionError("this score is not fitted to anything")


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return tiny_network(outlier_head=True)


def builder(network: torch.nn.Module, frames=no_frames) -> ScoreBuilder:
    return ScoreBuilder(network, METADATA, VIEWER, frames, OPTIONS)


def score(name: str, network: torch.nn.Module, image: np.ndarray, frames=no_frames) -> np.ndarray:
    method = builder(network, frames)(name)
    return method(VIEWER.to_input(image), VIEWER.output(network, image))[0].cpu().numpy()


def test_what_a_model_lacks_is_not_offered() -> None:
    plain = replace(tiny_metadata(), statistics=None)
    offered = {name for name in STUDY_SCORES if is_offered(name, tiny_network(), plain)}
    lacking = {"sml", "sml_smoothed", "mc_dropout", "flow_hybrid"}
    lacking |= {"dense_hybrid", "outlier_head", "outlier_head_msp", "k_plus_1"}
    assert offered == set(STUDY_SCORES) - lacking


def test_mc_dropout_is_offered_where_there_is_dropout() -> None:
    erfnet = build_network("erfnet", {"num_classes": 19}).eval()
    assert is_offered("mc_dropout", erfnet, METADATA)


@pytest.mark.parametrize("name", ["msp", "sml", "dense_hybrid"])
def test_the_nodes_scores_are_the_nodes(name: str, network: torch.nn.Module) -> None:
    image = frame(1)
    ours = torch.from_numpy(score(name, network, image))[None, None]
    ours = F.interpolate(ours, size=image.shape[:2], mode="bilinear")[0, 0].numpy()
    node = Segmenter(tiny_network(outlier_head=True), METADATA, device="cpu", precision="fp32")
    theirs = node.predict(image, (name,)).scores[name]
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_react_clips_at_the_percentile_of_the_training_frames(network: torch.nn.Module) -> None:
    image, fitted = frame(1), [frame(2), frame(3)]
    found = score("react", network, image, lambda: fitted)
    with torch.no_grad():
        seen = [network(VIEWER.to_input(x)).pre_logits for x in fitted]
        threshold = float(np.percentile(torch.cat(seen).numpy(), OPTIONS.react_percentile))
        clipped = network(VIEWER.to_input(image)).pre_logits.clamp(max=threshold)
        expected = -network.classify(clipped).logsumexp(1)[0]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["odin", "smoothed", "sml_smoothed"])
def test_post_hoc_scores_need_no_frames(name: str, network: torch.nn.Module) -> None:
    assert np.isfinite(score(name, network, frame(1))).all()


def test_fitted_scores_share_pixels_of_the_training_frames(network: torch.nn.Module) -> None:
    """With the study's options, and for ViM the classifier's origin."""
    image, calls = frame(1), []

    def frames() -> list[np.ndarray]:
        calls.append(1)
        return [frame(2), frame(3)]

    options = replace(
        OPTIONS,
        gdm_variance=0.9,
        gmm_variance=0.8,
        gmm_shrinkage=3.0,
        neco_variance=0.5,
        openmax_tail=9,
        openmax_top=2,
        vim_share=0.25,
    )
    build = ScoreBuilder(network, METADATA, VIEWER, frames, options)
    pixels = sample_pixels(network, [VIEWER.to_input(x) for x in (frame(2), frame(3))], 700)
    origin = classifier_origin(network)
    assert origin is not None
    output = VIEWER.output(network, image)
    for name, arguments in {
        "gdm": {"variance": 0.9},
        "gmm": {"variance": 0.8, "shrinkage": 3.0},
        "neco": {"variance": 0.5},
        "openmax": {"tail": 9, "top": 2},
        "vim": {"share": 0.25, "origin": origin},
    }.items():
        expected = build_posthoc(name, pixels=pixels, **arguments).of(output)
        assert torch.equal(build(name)(None, output), expected), name
    assert len(calls) == 1


def test_flow_scores_share_one_flow(network: torch.nn.Module) -> None:
    image, calls = frame(1), []

    def frames() -> list[np.ndarray]:
        calls.append(1)
        return [image]

    build = builder(network, frames)
    output = VIEWER.output(network, image)
    density = build("flow_density")(None, output)
    hybrid = build("flow_hybrid")(None, output)
    assert len(calls) == 1
    log_outlier = output.ood_logits.log_softmax(1)[:, 1]
    assert torch.equal(hybrid, log_outlier + density)
    assert not torch.equal(hybrid, density)


def test_a_flow_trained_along_is_not_fitted_anew(tmp_path: Path, network: torch.nn.Module) -> None:
    model = tmp_path / "final.safetensors"
    model.touch()
    assert flow_beside(model) is None
    torch.manual_seed(0)
    flow = PointwiseFlow(network.pre_logits_channels, steps=2, width=8)
    save_pointwise_flow(tmp_path / "pointwise_flow.safetensors", flow, {})
    assert flow_beside("default") is None
    path = flow_beside(model)
    build = ScoreBuilder(network, tiny_metadata(), VIEWER, list, OPTIONS, path)
    output = VIEWER.output(network, frame(1))
    with torch.no_grad():
        expected = -flow.log_density(output.pre_logits)
    assert torch.equal(build("flow_density")(None, output), expected)


def test_figures_pool_the_pixels_of_all_frames(tmp_path: Path, network: torch.nn.Module) -> None:
    rng = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    masks, maps = [], []
    for i in range(2):
        image = frame(i)
        mask = rng.choice(np.array([0, 0, 0, 1, 255], np.uint8), (80, 120))
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), image[..., ::-1])
        cv2.imwrite(str(tmp_path / "labels" / f"{i}.png"), mask)
        raw = torch.from_numpy(score("energy", network, image))[None, None]
        maps.append(F.interpolate(raw, size=(80, 120), mode="bilinear")[0, 0].numpy())
        masks.append(mask)
    target, values = np.stack(masks), np.stack(maps)
    known = target != 255
    samples = open_dataset("folder", tmp_path)
    scores = {"energy": builder(network)("energy")}
    figures, histograms = set_figures(network, samples, VIEWER, scores)
    assert histograms["energy"].names == ("0", "1")
    assert histograms["energy"].positives.sum() == (target == 1).sum()
    expected = average_precision_score(target[known], values[known])
    assert figures["energy"]["AP"] == pytest.approx(expected, rel=1e-6)
    expected = roc_auc_score(target[known], values[known])
    assert figures["energy"]["AUROC"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("align_corners", [True, False])
def test_smoothed_scores_start_from_the_networks_upsampling(align_corners: bool) -> None:
    network = tiny_network()
    network.align_corners = align_corners
    inputs = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = network(inputs).logits
    expected = F.interpolate(logits, (64, 96), mode="bilinear", align_corners=align_corners)
    statistics = ClassStatistics(torch.zeros(19), torch.ones(19))
    options = {"statistics": statistics, "boundary_width": 0, "kernel_size": 0}
    found = build_posthoc("sml_smoothed", **options)(network, inputs)
    torch.testing.assert_close(found, -expected.amax(1))


@pytest.mark.parametrize("name", ["energy", "smoothed"])
@pytest.mark.parametrize("align_corners", [True, False])
def test_maps_are_upsampled_from_their_own_grid(
    tmp_path: Path, name: str, align_corners: bool
) -> None:
    """The network's with its ``align_corners``; smoothed ones lie on the pixels of its input."""
    network = tiny_network(outlier_head=True)
    network.align_corners = align_corners
    image = frame(1)
    raw = torch.from_numpy(score(name, network, image))[None, None]
    corners = align_corners and name == "energy"
    expected = F.interpolate(raw, (80, 120), mode="bilinear", align_corners=corners)[0, 0]
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    cv2.imwrite(str(tmp_path / "images" / "0.png"), image[..., ::-1])
    # Exactly the pixels above the median, so another resampling cannot rank them all first.
    mask = (expected > expected.median()).numpy().astype(np.uint8)
    cv2.imwrite(str(tmp_path / "labels" / "0.png"), mask)
    samples = open_dataset("folder", tmp_path)
    figures, _ = set_figures(network, samples, VIEWER, {name: builder(network)(name)})
    assert figures[name]["AP"] == 1

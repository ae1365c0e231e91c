# SPDX-License-Identifier: Apache-2.0
"""The whole way from a model file to a calibrated one, on made-up scenes of seconds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from every_network import NETWORKS, SIZE, save_network
from tiny import ARGUMENTS, save_tiny_model, tiny_metadata, tiny_network
from tiny_releases import prefixed
from tiny_scenes import scenes, training_data

from anomaly_seg_ros.checkpoints.loading import load_model, save_model
from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.checkpoints.wrapping import wrap
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.models.deeplab_lite import DeepLabV3PlusLite
from anomaly_seg_ros.models.input_scaling import InputScaling
from anomaly_seg_ros.models.outlier_branch import OutlierBranch
from anomaly_seg_ros.models.registry import build_network
from anomaly_seg_ros.taxonomy import load_taxonomy
from tools.gpu_run.weights import write_weights
from training import calibrate, fine_tune, validation
from training.data.corpora import Corpus, TrainingData
from training.data.held_out import MaskedFrame, mixed_frames
from training.data.mixing.mixer import Mixer, MixOptions
from training.data.negatives import NegativeObject
from training.engine import storage
from training.flow.pointwise_flow import FLOW_FILE, flow_hybrid, load_pointwise_flow
from training.losses import OpenSetLoss
from training.losses.base import Objective

SETTINGS = [
    "steps=2", "batch_size=2", "workers=0", "precision=fp32", "crop=[64, 96]",
    "height_range=[64, 96]", "validate_every=1", "checkpoint_every=1", "log_every=1",
    "validation.size=[64, 96]", "tensorboard=false",
    "warmup=0", "lr=0.001", "inference_size=[64, 96]", "max_miou_drop=1.0",
]  # fmt: skip


class Squares:
    """Red squares."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> NegativeObject:
        image = np.zeros((20, 20, 3), np.uint8)
        image[..., 0] = 255
        return NegativeObject(image, np.ones((20, 20), bool), "square", f"square {index}")

    def describe(self) -> str:
        return "three squares"


@pytest.fixture
def made_up_data(monkeypatch: pytest.MonkeyPatch) -> TrainingData:
    """Replaces every reader of real data."""
    names = ("cityscapes256", "cityscapes", "camvid", "camvid960", "bdd100k")
    corpora = [scenes(name, seed) for seed, name in enumerate(names)]
    held_out = scenes("held out", 9)
    mixer = Mixer(Squares(), MixOptions(probability=1.0, scene_texture=0.0), load_taxonomy())
    frames = mixed_frames([held_out], mixer, 3, seed=0)
    unknown = Corpus.of_arrays("unknown", [frames[0].image], [frames[0].mask])
    data = training_data(train=corpora, validation=[held_out], unknown=[unknown])
    monkeypatch.setattr(fine_tune, "TrainingData", lambda *_: data)
    monkeypatch.setattr(fine_tune, "build_mixer", lambda *_: mixer)
    monkeypatch.setattr(validation, "mixed_held_out", lambda *_: frames)
    return data


@pytest.fixture
def run(made_up_data: TrainingData, tmp_path: Path) -> Callable[..., int]:
    """Runs the entry on a tiny model (or another file), with settings on top."""
    save_tiny_model(tmp_path / "tiny.safetensors")

    def start(*settings: str, model: str = "tiny.safetensors", folder: str = "run") -> int:
        command = ["--run-dir", str(tmp_path / folder), "--model", str(tmp_path / model)]
        return fine_tune.main([*command, "--device", "cpu", "--set", *SETTINGS, *settings])

    return start


def test_the_result_needs_nothing_else(run: Callable[..., int], tmp_path: Path) -> None:
    best = "best_figure=mixed_dense_hybrid_ap"
    scores = "validation.scores=[energy, dense_hybrid]"
    assert run("loss.name=dense_hybrid", best, scores, "default_score=dense_hybrid") == 0
    segmenter = Segmenter.load(tmp_path / "run" / "final.safetensors", device="cpu")
    metadata = segmenter.metadata
    assert segmenter.inference_size == (64, 96)
    assert metadata.default_score == "dense_hybrid"
    assert metadata.name == "tiny_dense_hybrid"
    # Every score that the model offers can be thresholded at a true-positive rate.
    assert {"sml", "dense_hybrid"} <= set(segmenter.available_scores)
    assert set(metadata.calibration) == set(segmenter.available_scores)
    for calibration in metadata.calibration.values():
        assert 0 < calibration.threshold_for_tpr(0.95) < 1
    provenance = metadata.provenance
    assert provenance["fine_tuning"]["loss"]["name"] == "dense_hybrid"
    assert provenance["start"]["name"] == "tiny"
    assert provenance["validation"]["figure"] == "mixed_dense_hybrid_ap"
    assert "4 frames, 3 of them with pasted objects" in provenance["calibration"]["unknown"]
    assert (tmp_path / "run" / "mixed_samples.png").stat().st_size > 1000
    assert (tmp_path / "run" / "objects.txt").read_text() == "three squares\n"
    lines = [json.loads(x) for x in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {"val_miou", "mixed_energy_ap", "natural_energy_fpr95"} <= set(lines[0])
    assert lines[0]["step"] == 0
    assert {"segmentation", "likelihood", "head"} <= set(lines[1])


@pytest.mark.slow
@pytest.mark.parametrize(("figure", "best"), [("ap", max), ("fpr95", min)])
def test_the_best_is_the_highest_precision_or_the_lowest_error(
    run: Callable[..., int], tmp_path: Path, figure: str, best: Callable
) -> None:
    name = f"mixed_energy_{figure}"
    assert run(f"best_figure={name}", "calibrate=false") == 0
    lines = [json.loads(x) for x in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    values = [line[name] for line in lines if name in line]
    assert min(values) < max(values)
    metadata = load_model(tmp_path / "run" / "final.safetensors")[1]
    assert metadata.provenance["validation"]["value"] == best(values)


def test_a_head_that_the_model_has_may_be_asked_for(
    run: Callable[..., int], tmp_path: Path
) -> None:
    """No loss has to train it: it is the file's, and stays as it is."""
    save_tiny_model(tmp_path / "head.safetensors", outlier_head=True)
    assert run("outlier_head=true", "calibrate=false", model="head.safetensors") == 0
    before = tiny_network(outlier_head=True).outlier_head.state_dict()
    after = load_model(tmp_path / "run" / "final.safetensors")[0].outlier_head.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_only_the_chosen_part_changes(run: Callable[..., int], tmp_path: Path) -> None:
    assert run("part=last_layer") == 0
    start = tiny_network().state_dict()
    last = storage.load_checkpoint(tmp_path / "run" / "last.pt")["model"]
    changed = {key for key in start if not torch.equal(start[key], last[key])}
    assert changed == {"classifier.weight", "classifier.bias"}


@pytest.mark.slow
def test_a_finished_run_is_only_written_again(run: Callable[..., int], tmp_path: Path) -> None:
    assert run() == 0
    path = tmp_path / "run" / "final.safetensors"
    before, _ = load_model(path)
    path.unlink()
    assert run() == 0
    after, _ = load_model(path)
    for key, value in before.state_dict().items():
        assert torch.equal(value, after.state_dict()[key]), key


def test_the_abstention_class_does_not_stay(run: Callable[..., int], tmp_path: Path) -> None:
    assert run("loss.name=pebal") == 0
    network, metadata = load_model(tmp_path / "run" / "final.safetensors")
    assert network.num_classes == len(metadata.classes) == 19


def test_a_k_plus_1_classifier_runs_with_its_own_score(
    run: Callable[..., int], tmp_path: Path
) -> None:
    assert run("loss.name=k_plus_1", "default_score=k_plus_1") == 0
    segmenter = Segmenter.load(tmp_path / "run" / "final.safetensors", device="cpu")
    assert segmenter.metadata.default_score == "k_plus_1"
    assert len(segmenter.metadata.classes) == 19
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    assert np.ptp(segmenter.predict(image, ("k_plus_1",)).scores["k_plus_1"]) > 0


BRANCH = [
    *("outlier_branch={width: 8, blocks: 1}", "part=outlier_head", "loss.name=outlier_head"),
    *("loss.options.segmentation_weight=0", "default_score=dense_hybrid"),
    *("best_figure=mixed_dense_hybrid_ap", "validation.scores=[energy, dense_hybrid]"),
]


def test_an_outlier_branch_alone_is_trained(run: Callable[..., int], tmp_path: Path) -> None:
    """The closed set stays bit for bit."""
    assert run(*BRANCH) == 0
    network, metadata = load_model(tmp_path / "run" / "final.safetensors")
    assert metadata.arguments["outlier_head"] == {"width": 8, "blocks": 1}
    assert {"outlier_head", "dense_hybrid", "k_plus_1"} <= set(metadata.calibration)
    images = torch.randn(1, 3, *SIZE)
    with torch.inference_mode():
        assert torch.equal(network(images).logits, tiny_network()(images).logits)
    lines = [json.loads(x) for x in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len({line["val_miou"] for line in lines if "val_miou" in line}) == 1
    assert not any("segmentation" in line for line in lines)
    # What a run that still goes on is looked at by.
    assert write_weights(tmp_path / "run" / "last.pt", tmp_path, tmp_path / "now.safetensors") == 2
    assert isinstance(load_model(tmp_path / "now.safetensors")[0].outlier_head, OutlierBranch)


@pytest.mark.slow
def test_a_branch_s_training_goes_on(run: Callable[..., int], tmp_path: Path) -> None:
    """As if it had not been interrupted; and no other loss changes the branch."""
    without = (*BRANCH, "calibrate=false")
    assert run(*without) == 0
    (tmp_path / "run" / "final.safetensors").rename(tmp_path / "branch.safetensors")
    state = load_model(tmp_path / "branch.safetensors")[0].state_dict()
    assert run(*without, "max_seconds=1.0e-6", folder="half") == 0
    assert storage.load_checkpoint(tmp_path / "half" / "last.pt")["step"] == 1
    assert run(*without, folder="half") == 0
    again = load_model(tmp_path / "half" / "final.safetensors")[0].state_dict()
    assert all(torch.equal(value, again[key]) for key, value in state.items())
    pebal = ("loss.name=pebal", "part=last_layer", "steps=1", "calibrate=false")
    assert run(*pebal, model="branch.safetensors", folder="pebal") == 0
    after = load_model(tmp_path / "pebal" / "final.safetensors")[0].state_dict()
    changed = {key for key, value in state.items() if not torch.equal(value, after[key])}
    assert changed == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize(
    ("settings", "expected"), [([], True), (["loss.options.align_corners=false"], False)]
)
def test_the_loss_upsamples_as_the_network_does(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, settings: list[str], expected: bool
) -> None:
    monkeypatch.setattr(type(tiny_network()), "align_corners", True)
    losses = []

    def record(loss: OpenSetLoss, scaling: InputScaling) -> Objective:
        losses.append(loss)
        return Objective(loss, scaling)

    monkeypatch.setattr(fine_tune, "Objective", record)
    assert run("steps=1", "calibrate=false", *settings) == 0
    assert [loss.align_corners for loss in losses] == [expected]


@pytest.mark.slow
@pytest.mark.parametrize("passes", [1, 2])
def test_a_flow_takes_part(run: Callable[..., int], tmp_path: Path, passes: int) -> None:
    flow = ["flow.size=tiny", "flow.lr=0.001", "flow.options.largest=32"]
    assert run(*flow, f"flow.options.passes={passes}") == 0
    last = storage.load_checkpoint(tmp_path / "run" / "last.pt")
    assert last["second_player"]["steps"] == 2
    lines = [json.loads(x) for x in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert any("flow_bits_per_dim" in line for line in lines)


@pytest.mark.parametrize("with_samples", [False, True])
def test_a_density_is_trained_along(
    run: Callable[..., int], tmp_path: Path, with_samples: bool
) -> None:
    """With real negatives, or with the samples of another flow: its file fits the model's."""
    # With statistics of images, so that its pre-logits have a scale.
    start = tiny_network().train()
    for module in start.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    start(torch.randn(4, 3, 64, 96))
    save_model(tmp_path / "tiny.safetensors", start, tiny_metadata())
    settings = ["loss.name=outlier_head", "pointwise_flow.train=true", "calibrate=false"]
    if with_samples:
        settings += ["flow.size=tiny", "flow.lr=0.001", "flow.options.largest=32"]
    # The last validation is the best.
    assert run(*settings, "best_figure=''") == 0
    network, _ = load_model(tmp_path / "run" / "final.safetensors")
    flow = load_pointwise_flow(tmp_path / "run" / FLOW_FILE)
    with torch.no_grad():
        hybrid = flow_hybrid(network(torch.randn(1, 3, 64, 96)), flow)
    assert torch.isfinite(hybrid).all()
    lines = [json.loads(x) for x in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    logged = [line["density_inlier"] for line in lines if "density_inlier" in line]
    assert abs(logged[1] - logged[0]) < 5.0  # nats; the network moves under it
    assert run(*settings, "best_figure=''") == 0  # resumes, and writes the same again
    again = load_pointwise_flow(tmp_path / "run" / FLOW_FILE).state_dict()
    assert all(torch.equal(v, again[k]) for k, v in flow.state_dict().items())


def test_without_calibration_nothing_of_the_old_one_is_left(
    run: Callable[..., int], tmp_path: Path
) -> None:
    """Its thresholds are of other weights."""
    _, before = load_model(tmp_path / "tiny.safetensors")
    assert before.calibration
    assert before.statistics is not None
    assert run("steps=1", "calibrate=false") == 0
    _, metadata = load_model(tmp_path / "run" / "final.safetensors")
    assert metadata.calibration == {}
    assert metadata.statistics is None


class TestBadInput:
    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ("loss.nmae=pebal", "unknown configuration key 'loss.nmae'; did you mean loss.name"),
            ("loss.name=pebbal", "unknown loss 'pebbal'"),
            ("loss.options.kk=3", "loss 'top_k_ovr' has no option 'kk'"),
            ("part=headd", "part 'headd'"),
            ("crop=[64, 90]", "crop [64, 90]: height and width must be multiples of 32"),
            ("validation.size=[60, 96]", "validation.size [60, 96]"),
            ("validation.scores=[dense_hybrid]", "validation.scores: score 'dense_hybrid' needs"),
            ("best_figure=mixed_msp_ap", "best_figure: the validation gives no 'mixed_msp_ap'"),
            ("default_score=nonsense", "default_score: unknown score 'nonsense'"),
            ("default_score=sml calibrate=false", "default_score: score 'sml' needs"),
            ("inference_size=[64]", "inference_size [64]: expected [height, width]"),
            ("inference_size=[64, 96, 96]", "inference_size [64, 96, 96]: expected"),
            ("inference_size=[64, 96.0]", "inference_size [64, 96.0]: expected"),
            ("inference_size=[64, wide]", "inference_size [64, 'wide']: expected"),
            ("inference_size=[64, true]", "inference_size [64, True]: expected"),
            ("target_fpr=0.0001", "target_fpr 0.0001: outside the calibrated range 0.0002 to 0.9"),
            ("target_fpr=.nan", "target_fpr must be a number like 0.01, got nan"),
            (
                "outlier_head=true",
                "outlier_head: the model has no outlier head, and the loss",
            ),
            ("outlier_branch.width=8", "outlier_branch: the loss 'top_k_ovr' would not train one"),
            ("outlier_branch.widht=8 loss.name=k_plus_1", "no option 'widht'; did you mean width"),
            ("outlier_branch.width=0 loss.name=k_plus_1", "outlier_branch.width is 0, expected"),
            ("outlier_branch=8", "outlier_branch must be a mapping"),
            ("best_figure=nonsense", "validation gives no 'nonsense'"),
            ("batch_size=3 accumulate=2", "batch_size 3 does not split"),
            ("pointwise_flow.train=true pointwise_flow.options.pixel=3", "no option 'pixel'"),
            ("flow.size=25-6", "flow.options.largest 216: larger than the crop"),
            ("flow.weights=none.safetensors flow.options.largest=32", "none.safetensors"),
        ],
    )
    def test_settings(self, run: Callable, capsys, setting: str, message: str) -> None:
        settings = [setting] if "[" in setting else setting.split()
        assert run(*settings) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("fine_tune: error: ")
        assert message in error

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("wrong", "right"),
        [
            ("inference_size=[64]", "inference_size=[64, 96]"),
            ("target_fpr=0.95", "target_fpr=0.05"),
        ],
    )
    def test_what_only_the_end_needs_costs_no_training(
        self, run: Callable, tmp_path: Path, wrong: str, right: str
    ) -> None:
        assert run(wrong) == 1
        # A checkpoint would hold the wrong value, and refuse to go on with the right one.
        assert not (tmp_path / "run" / "last.pt").exists()
        assert run(right) == 0

    def test_a_checkpoint_of_another_architecture(self, run, tmp_path: Path, capsys) -> None:
        metadata = tiny_metadata(architecture="erfnet", arguments={"num_classes": 19})
        save_model(tmp_path / "other.safetensors", tiny_network(), metadata)
        assert run(model="other.safetensors") == 1
        assert "other.safetensors does not fit ERFNet" in capsys.readouterr().err

    def test_balancing_what_cannot_be_balanced(
        self, run, capsys, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        parts = {**DeepLabV3PlusLite.trainable_parts, "last_layer": ("fuse4.1.0",)}  # no bias
        monkeypatch.setattr(DeepLabV3PlusLite, "trainable_parts", parts)
        assert run("balance_classes=true") == 1
        assert "balance_classes: DeepLabV3PlusLite has no classifier" in capsys.readouterr().err

    def test_other_classes(self, run, tmp_path: Path, capsys) -> None:
        metadata = tiny_metadata()
        names = (*metadata.classes[1:], metadata.classes[0])
        save_model(tmp_path / "x.safetensors", tiny_network(), replace(metadata, classes=names))
        assert run(model="x.safetensors") == 1
        assert "class 0 is 'sidewalk', but 'road' in the labels" in capsys.readouterr().err

    def test_weights_that_are_not_finite(self, run, tmp_path: Path, capsys) -> None:
        network = tiny_network()
        with torch.no_grad():
            network.classifier.bias[3] = float("nan")
        save_model(tmp_path / "nan.safetensors", network, tiny_metadata())
        chosen = ("validation.scores=[msp]", "best_figure=mixed_msp_ap")
        assert run(*chosen, model="nan.safetensors") == 1
        error = capsys.readouterr().err
        assert "frame 'held out image 0 mixed" in error
        assert "not finite" in error

    def test_a_loss_that_turns_nan_names_the_batch(
        self, run, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from training.losses import TopKOneVsRest

        honest = TopKOneVsRest.weighted_terms
        calls = iter(range(10))

        def failing(self, *arguments):
            terms = honest(self, *arguments)
            factor = float("nan") if next(calls) == 1 else 1.0
            return {name: (factor * weight, term) for name, (weight, term) in terms.items()}

        monkeypatch.setattr(TopKOneVsRest, "weighted_terms", failing)
        assert run() == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert "step 1: the loss is nan" in error
        assert re.search(r"samples 2 \(\w+ image \d\), 3 \(\w+ image \d\)$", error)
        last = storage.load_checkpoint(tmp_path / "run" / "last.pt")
        assert last["step"] == 1
        assert all(torch.isfinite(x).all() for x in last["model"].values())

    @pytest.mark.slow
    def test_another_configuration_for_the_same_folder(self, run, capsys) -> None:
        assert run() == 0
        assert run("loss.options.k=3") == 1
        assert "other values of ['loss.options.k']" in capsys.readouterr().err


def test_mixed_pixels_count_as_unknown(made_up_data: TrainingData) -> None:
    """Beside the natural ones, in calibration; the network handed in is not changed."""
    network, metadata = tiny_network(), tiny_metadata(inference_size=(64, 96))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    mask = np.zeros((64, 96), np.uint8)
    mask[:4] = 1
    extra = MaskedFrame("extra", np.zeros((64, 96, 3), np.uint8), mask)
    result = calibrate.calibrate(network, metadata, made_up_data, "cpu", 0.05, mixed=[extra])
    assert "2 frames, 1 of them" in result.provenance["calibration"]["unknown"]
    assert set(network.state_dict()) == set(before)
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert result.statistics is not None
    assert ARGUMENTS["num_classes"] == len(result.statistics.mean)


# Their networks take the two steps of PUBLIC as well, with and without what tells these apart.
ASKED_ELSEWHERE = {"wide_resnet38", "wide_resnet38 of DenseHybrid", "resnet101"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.exhaustive if name in ASKED_ELSEWHERE else ())
        for name in NETWORKS
    ],
)
def test_every_network_trains_a_step_and_reloads(
    run: Callable[..., int], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_network(name, tmp_path / "start.safetensors")
    images = torch.rand(1, 3, *SIZE)
    trained = []

    def record(path: Path, network: torch.nn.Module, metadata: ModelMetadata) -> None:
        with torch.inference_mode():
            trained.append(network(images))
        save_model(path, network, metadata)

    monkeypatch.setattr(fine_tune, "save_model", record)
    what = ["part=classification_head", "loss.name=top_k_ovr", 'best_figure=""']
    sizes = [f"{key}={list(SIZE)}" for key in ("crop", "validation.size", "inference_size")]
    once = ["steps=1", "calibrate=false", *sizes]
    assert run(*what, *once, model="start.safetensors") == 0
    reloaded, _ = load_model(tmp_path / "run" / "final.safetensors")
    start, _ = load_model(tmp_path / "start.safetensors")
    with torch.inference_mode():
        output, before = reloaded(images), start(images)
    assert torch.equal(output.logits, trained[0].logits)
    assert not torch.equal(output.logits, before.logits)
    if output.ood_logits is not None:
        assert torch.equal(output.ood_logits, trained[0].ood_logits)


# Layout of a release: architecture, arguments, how it is stored; and a recipe of the papers.
PUBLIC = {
    "NVIDIA's WideResNet38, top-K OvR": (
        ("wide_resnet38", {}, lambda x: {"state_dict": prefixed("module.", x)}),
        ["loss.name=top_k_ovr", "part=classification_head", "lr=1.0e-5"],
    ),
    "SML's ResNet101, top-K OvR": (
        ("resnet101", {}, lambda x: {"state_dict": prefixed("module.", x)}),
        ["loss.name=top_k_ovr", "part=classification_head", "lr=1.0e-5"],
    ),
    "DenseHybrid's LDN-121": (
        ("ladder_densenet121", {"outlier_head": True}, dict),
        [
            *("loss.name=dense_hybrid", "part=all", "optimizer=adam", "lr=1.0e-5"),
            *("schedule=cosine", "final_lr=1.0e-7", "backbone_factor=0.25", "head_factor=1.0"),
        ],
    ),
    "EfficientViT-B0, DenseHybrid": (
        ("efficientvit_seg", {}, lambda x: {"state_dict": x}),
        ["loss.name=dense_hybrid", "part=all", "schedule=constant", "lr=1.0e-6", "optimizer=adam"],
    ),
    "a wrapped network": (
        ("wrapped", {"factory": "torchvision:lraspp_mobilenet_v3_large"}, None),
        ["loss.name=top_k_ovr", "part=all", "epochs=0.2"],
    ),
}


def save_public(path: Path, architecture: str, arguments: dict, store: Callable | None) -> None:
    """Writes a file as a release has it; a wrapped network as convert_model does."""
    torch.manual_seed(0)
    if store is None:
        pytest.importorskip("torchvision", reason="torchvision is not installed")
        save_model(path, *wrap(arguments["factory"], inference_size=(64, 96)))
        return
    network = build_network(architecture, {"num_classes": 19, **arguments})
    torch.save(store(network.state_dict()), path)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLIC)
def test_public_layouts_take_two_steps(
    run: Callable[..., int], tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the chosen part changes, at the recipe's rates, and the result loads."""
    layout, recipe = PUBLIC[name]
    save_public(tmp_path / "start.pth", *layout)
    before = load_model(tmp_path / "start.pth")[0]
    frugal = [
        *("calibrate=false", "validate_every=2", "checkpoint_every=2", "best_figure=''"),
        *("validation.scores=[energy]", "validation.natural=false"),
    ]
    assert run(*recipe, *frugal, model="start.pth") == 0
    assert "at step 0 of 2" in capsys.readouterr().out
    after, metadata = load_model(tmp_path / "run" / "final.safetensors")
    assert metadata.architecture == layout[0]
    part = next(x for x in recipe if x.startswith("part=")).removeprefix("part=")
    chosen = (*{"all": ("",), **before.trainable_parts}[part], "logits_ood", "outlier_head")
    old, new = before.state_dict(), after.state_dict()
    changed = {k for k in new if k not in old or not torch.equal(new[k], old[k])}
    assert changed
    assert all(key.startswith(chosen) for key in changed)
    groups = storage.load_checkpoint(tmp_path / "run" / "last.pt")["optimizer"]["param_groups"]
    rates = {group["lr"] for group in groups}
    # The second of two steps.
    if "schedule=cosine" in recipe:
        decoder = 1e-7 + (1e-5 - 1e-7) / 2
        assert sorted(rates) == pytest.approx([1e-7 + (2.5e-6 - 1e-7) / 2, decoder])
    elif "schedule=constant" in recipe:
        assert max(rates) == pytest.approx(3e-6)  # of the outlier head
    elif "lr=1.0e-5" in recipe:
        assert sorted(rates) == pytest.approx([1e-5 * 0.5**0.9])

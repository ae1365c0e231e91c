# SPDX-License-Identifier: Apache-2.0
"""convert_model keeps every tensor bit for bit, and says what it drops, fills in or lacks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import ARGUMENTS, save_tiny_model, tiny_metadata, tiny_network

from anomaly_seg_ros.checkpoints.loading import load_model, save_model
from anomaly_seg_ros.cli import convert_model, inspect_model
from anomaly_seg_ros.models.registry import build_network

TAXONOMY = """
classes:
  - {name: ground, colour: [1, 2, 3]}
  - {name: plant, colour: [4, 5, 6]}
  - {name: animal, colour: [7, 8, 9]}
"""


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A training checkpoint of the tiny network, wrapped as public releases are."""
    tensors = {f"module.{k}": v for k, v in tiny_network(seed=3).state_dict().items()}
    path = tmp_path / "release.pth"
    torch.save({"state_dict": tensors, "epoch": 9, "mean_iu": 0.5, "optimizer": {}}, path)
    return path


def test_round_trip_is_exact(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert_model.main([str(release), "--to", "safetensors"]) == 0
    target = release.with_suffix(".safetensors")
    original = tiny_network(seed=3)
    written = load_file(target)
    assert written.keys() == original.state_dict().keys()
    for key, value in original.state_dict().items():
        assert written[key].dtype == value.dtype
        assert torch.equal(written[key], value), key
    network, metadata = load_model(target)
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(network(images).logits, original(images).logits)
    source = metadata.provenance["converted_from"]
    assert source["sha256"] == hashlib.sha256(release.read_bytes()).hexdigest()
    assert source["recorded"] == {"epoch": 9, "mean_iu": 0.5}
    assert metadata.output_stride == 4
    said = capsys.readouterr().out
    assert "nothing missing or left over" in said
    assert "training.calibrate" in said


@pytest.mark.parametrize("context", ["", "lite0"])
def test_the_options_of_an_outlier_branch_are_found(tmp_path: Path, context: str) -> None:
    """In what a training leaves, which holds no metadata."""
    options = {"width": 8, "blocks": 3, **({"context": context} if context else {})}
    torch.manual_seed(0)
    arguments = {"num_classes": 19, "outlier_head": options}
    state = build_network("ladder_densenet121", arguments).state_dict()
    torch.save({"model": state}, tmp_path / "last.pt")
    assert convert_model.main([str(tmp_path / "last.pt"), "--to", "safetensors"]) == 0
    network, metadata = load_model(tmp_path / "last.safetensors")
    # This network takes images in [0, 1], the context trunk others.
    scaling = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]} if context else {}
    assert metadata.arguments["outlier_head"] == {**options, **scaling}
    assert metadata.default_score == "dense_hybrid"
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("ladder_densenet121", {"num_classes": 12, "outlier_head": True}),
        ("erfnet", {}),
    ],
)
def test_public_networks(architecture: str, arguments: dict, tmp_path: Path) -> None:
    torch.manual_seed(5)
    original = build_network(architecture, arguments).eval()
    torch.save({"model": original.state_dict()}, tmp_path / "x.pth")
    assert convert_model.main([str(tmp_path / "x.pth"), "--to", "safetensors"]) == 0
    network, metadata = load_model(tmp_path / "x.safetensors")
    assert metadata.architecture == architecture
    for key, value in original.state_dict().items():
        assert torch.equal(network.state_dict()[key], value), key
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(network(images).logits, original(images).logits)


def test_half_precision_is_widened_aloud(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = tiny_network().half().state_dict()
    torch.save(half, tmp_path / "half.pth")
    assert convert_model.main([str(tmp_path / "half.pth"), "--to", "safetensors"]) == 0
    assert "float16 tensors became float32, exactly" in capsys.readouterr().out
    for key, value in load_file(tmp_path / "half.safetensors").items():
        assert torch.equal(value, half[key].to(value.dtype)), key


def test_options_go_into_the_metadata(tmp_path: Path) -> None:
    torch.manual_seed(0)
    arguments = {"num_classes": 3, "decoder_channels": 16, "skip_channels": 8}
    network = build_network("deeplab_v3plus_lite", arguments)
    torch.save(network.state_dict(), tmp_path / "three.pth")
    (tmp_path / "mine.yaml").write_text(TAXONOMY)
    target = tmp_path / "out.safetensors"
    code = convert_model.main(
        [
            *(str(tmp_path / "three.pth"), "--to", str(target), "--name", "meadow"),
            *("--classes", str(tmp_path / "mine.yaml"), "--inference-size", "64", "128"),
            *("--mean", "0.1", "0.2", "0.3", "--std", "1", "2", "3"),
        ]
    )
    assert code == 0
    metadata = load_model(target)[1]
    assert metadata.name == "meadow"
    assert metadata.classes == ("ground", "plant", "animal")
    assert metadata.palette.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert metadata.inference_size == (64, 128)
    assert metadata.mean == (0.1, 0.2, 0.3)
    assert metadata.std == (1, 2, 3)


def test_own_models_keep_their_calibration_unless_the_scaling_changes(tmp_path: Path) -> None:
    own = save_tiny_model(tmp_path / "own.safetensors")
    same, other = tmp_path / "same.safetensors", tmp_path / "other.safetensors"
    assert convert_model.main([str(own), "--to", str(same), "--name", "renamed"]) == 0
    assert load_model(same)[1].calibration == load_model(own)[1].calibration
    assert convert_model.main([str(own), "--to", str(other), "--mean", "0", "0", "0"]) == 0
    assert not load_model(other)[1].calibration


def test_a_context_trunk_follows_the_scaling(tmp_path: Path) -> None:
    options = {"width": 8, "blocks": 1, "context": "lite0", "std": [0.5, 0.5, 0.5]}
    arguments = {**ARGUMENTS, "outlier_head": options}
    network = build_network("deeplab_v3plus_lite", arguments)
    source, target = tmp_path / "own.safetensors", tmp_path / "other.safetensors"
    save_model(source, network, tiny_metadata(arguments=arguments))
    assert convert_model.main([str(source), "--to", str(target), "--mean", "0", "0", "0.1"]) == 0
    metadata = load_model(target)[1]
    assert metadata.mean == (0.0, 0.0, 0.1)
    assert metadata.arguments["outlier_head"] == {**options, "mean": [0.0, 0.0, 0.1]}


def test_twenty_classes_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    arguments = {"num_classes": 20, "decoder_channels": 16, "skip_channels": 8}
    network = build_network("deeplab_v3plus_lite", arguments)
    torch.save({"segmentor": network.state_dict()}, tmp_path / "twenty.pth")
    command = [str(tmp_path / "twenty.pth"), "--to", "safetensors"]
    assert convert_model.main(command) == 1
    assert "if they are 20 classes: convert_model --num-classes 20" in capsys.readouterr().err
    assert convert_model.main([*command, "--num-classes", "20"]) == 0
    assert "nothing says what its 20 classes are; they are numbered" in capsys.readouterr().out
    metadata = load_model(tmp_path / "twenty.safetensors")[1]
    assert metadata.classes == tuple(f"class {i}" for i in range(20))
    assert convert_model.main([*command, "--force", "--num-classes", "0"]) == 1
    assert "--num-classes 0: at least 1" in capsys.readouterr().err


def test_the_guess_of_erfnets_twentieth_output_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(build_network("erfnet", {}).state_dict(), tmp_path / "x.pth")
    command = [str(tmp_path / "x.pth"), "--to", "safetensors", "--force"]
    assert convert_model.main(command) == 0
    said = capsys.readouterr().out
    assert "20 outputs are read as 19 classes and one for pixels without a label" in said
    assert "if they are 20 classes: convert_model --num-classes 20" in said
    assert len(load_model(tmp_path / "x.safetensors")[1].classes) == 19
    assert convert_model.main([*command, "--num-classes", "20"]) == 0
    assert len(load_model(tmp_path / "x.safetensors")[1].classes) == 20


def test_a_stray_parameter_of_the_network_leaves_no_file(
    release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(release, weights_only=True)
    tensors = {f"student.{k.removeprefix('module.')}": v for k, v in content["state_dict"].items()}
    stray = {"head.classifier.bias": torch.full((19,), 3.0)}
    torch.save({"state_dict": tensors | stray}, release)
    command = [str(release), "--to", "safetensors"]
    assert convert_model.main(command) == 1
    said = capsys.readouterr().err
    assert "1 unexpected (head.classifier.bias (outside of 'student.'; --prefix student." in said
    assert not release.with_suffix(".safetensors").exists()
    assert convert_model.main([*command, "--prefix", "student."]) == 0
    said = capsys.readouterr().out
    assert "left out, not under 'student.' (1 tensors): head.classifier.bias" in said


def drop_a_tensor(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    del content["state_dict"]["module.classifier.bias"]
    torch.save(content, path)


@pytest.mark.parametrize(
    ("damage", "options", "needle"),
    [
        (drop_a_tensor, [], "1 missing (classifier.bias)"),
        (None, ["--inference-size", "63", "96"], "multiples of 32"),
        (None, ["--inference-size", "0", "0"], "multiples of 32"),
        (None, ["--std", "1", "0", "1"], "must be positive"),
        (None, ["--mean", "nan", "0", "1"], "not finite"),
        (None, ["--classes", "nowhere.yaml"], "nowhere.yaml"),
        (None, ["--classes", "nowhere"], "nowhere"),
        (None, ["--classes", "streethazards"], "cannot be the 12 classes"),
        (None, ["--to", "model.onnx"], "ends in .safetensors"),
        (None, ["--key", "ema"], "no weights at 'ema'"),
        (None, ["--as", "erfnet"], "does not fit ERFNet"),
        (None, ["--to", "nowhere/x.safetensors"], "nowhere"),
    ],
)
def test_errors_leave_no_file(
    release: Path,
    damage: Callable[[Path], None] | None,
    options: list[str],
    needle: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(release.parent)
    if damage is not None:
        damage(release)
    assert convert_model.main([str(release), "--to", "safetensors", *options]) == 1
    assert needle in capsys.readouterr().err
    assert [path.name for path in release.parent.iterdir()] == ["release.pth"]


def test_existing_files_are_kept_without_force(
    release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = release.with_suffix(".safetensors")
    target.write_text("precious")
    assert convert_model.main([str(release), "--to", "safetensors"]) == 1
    assert target.read_text() == "precious"
    assert "--force" in capsys.readouterr().err
    assert convert_model.main([str(release), "--to", "safetensors", "--force"]) == 0
    # The mapped input must never be overwritten while it is read.
    assert convert_model.main([str(target), "--to", "safetensors", "--force"]) == 1
    assert "the input itself" in capsys.readouterr().err
    load_model(target)


def test_networks_of_other_packages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    segmentation = pytest.importorskip("torchvision").models.segmentation
    torch.manual_seed(1)
    original = segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    ).eval()
    wrapped = {f"module.{key}": value for key, value in original.state_dict().items()}
    torch.save(
        {"model": {**wrapped, "module.criterion.weight": torch.ones(3)}}, tmp_path / "x.pth"
    )
    (tmp_path / "mine.yaml").write_text(TAXONOMY)
    options = ["--wrap", "torchvision:lraspp_mobilenet_v3_large"]
    options += ["--classes", str(tmp_path / "mine.yaml")]
    assert convert_model.main([str(tmp_path / "x.pth"), "--to", "safetensors", *options]) == 0
    assert "criterion.weight" in capsys.readouterr().out
    assert inspect_model.main([str(tmp_path / "x.safetensors")]) == 0
    network, metadata = load_model(tmp_path / "x.safetensors")
    assert metadata.classes == ("ground", "plant", "animal")
    for key, value in original.state_dict().items():
        assert torch.equal(network.state_dict()[f"network.{key}"], value), key
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        logits = network(images).logits
        upsampled = torch.nn.functional.interpolate(logits, size=(64, 96), mode="bilinear")
        torch.testing.assert_close(upsampled, original(images)["out"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "needle"),
    [
        (["--wrap", "nowhere"], "unknown network factory 'nowhere'"),
        (["--wrap", "nowhere", "--as", "erfnet"], "exclude each other"),
        (["--key", "state_dict", "--prefix", "ema"], "under the prefix 'ema.'; its keys begin"),
        (["--wrap", "x", "--wrap-arguments", '{"depth": 3}'], "--wrap-arguments"),
    ],
)
def test_bad_wrapping_is_named(
    release: Path, options: list[str], needle: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert_model.main([str(release), "--to", "safetensors", *options]) == 1
    assert needle in capsys.readouterr().err

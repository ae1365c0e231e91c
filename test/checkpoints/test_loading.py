# SPDX-License-Identifier: Apache-2.0
"""Strict, safe loading: a damaged, foreign or malicious file is refused by name."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import save_tiny_model, tiny_metadata, tiny_network

from anomaly_seg_ros.checkpoints.loading import PUBLIC, load_model, resolve_model, save_model
from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.errors import CheckpointError, OutputError
from anomaly_seg_ros.models.erfnet import ERFNet
from anomaly_seg_ros.objects.rates import ObjectRates
from anomaly_seg_ros.objects.regions import ObjectRule
from anomaly_seg_ros.scores import SCORES
from anomaly_seg_ros.taxonomy import load_taxonomy


def resave(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, path, {"anomaly_seg_ros": tiny_metadata().to_json()})


def test_round_trip_is_exact(tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path / "tiny.safetensors")
    network, metadata = load_model(path)
    for key, value in tiny_network().state_dict().items():
        assert torch.equal(network.state_dict()[key], value), key
    assert metadata.to_json() == tiny_metadata(output_stride=4).to_json()
    assert not network.training


def test_metadata_round_trip() -> None:
    metadata = tiny_metadata()
    restored = ModelMetadata.from_json(metadata.to_json())
    assert restored.calibration == metadata.calibration
    assert restored.classes == metadata.classes
    assert (restored.palette == metadata.palette).all()
    assert torch.equal(restored.statistics.std, metadata.statistics.std)


RATES = ObjectRates("energy", ObjectRule(0.5, 0.4, 80), (0.0, 0.6), (2.5, 0.1), (0.9, 0.7))


def test_object_rates_are_an_optional_part_of_the_metadata() -> None:
    metadata = tiny_metadata(object_rates=RATES)
    assert ModelMetadata.from_json(metadata.to_json()).object_rates == RATES
    older = json.loads(tiny_metadata().to_json())
    assert "object_rates" not in older
    assert ModelMetadata.from_json(json.dumps(older)).object_rates is None


@pytest.mark.parametrize(
    ("damage", "needle"),
    [
        (lambda r: r.pop("rule"), "rule"),
        (lambda r: r["found"].append(0.5), "a table of object rates is damaged"),
        (lambda r: r["rule"].update(low_threshold=7.0), "low_threshold must be in"),
        (lambda r: r.update(score="best"), "unknown score"),
        (lambda r: r.update(min_scores="ab"), "finite numbers"),
    ],
)
def test_damaged_object_rates_are_refused(damage, needle: str) -> None:
    content = json.loads(tiny_metadata(object_rates=RATES).to_json())
    damage(content["object_rates"])
    with pytest.raises(CheckpointError, match=needle):
        ModelMetadata.from_json(json.dumps(content), "x.safetensors")


def test_uncalibrated_scores_keep_their_order_on_the_unit_scale() -> None:
    metadata = tiny_metadata(calibration={})
    raw = np.linspace(-40, 40, 1001, dtype=np.float32)
    for name in SCORES:
        unit = metadata.calibration_of(name).to_unit(raw)
        assert (np.diff(unit) > 0).all(), name
        assert 0 < unit[0] < 0.5 < unit[-1] < 1
    calibrated = tiny_metadata()
    assert calibrated.calibration_of("energy") is calibrated.calibration["energy"]


@pytest.mark.parametrize(
    ("damage", "needle"),
    [
        (lambda t: t.pop("classifier.bias"), "1 missing .classifier.bias"),
        (lambda t: t.update(surplus=torch.zeros(1)), "1 unexpected .surplus"),
        (lambda t: t.update({"classifier.bias": torch.zeros(7)}), "1 mis-shaped .classifier.bias"),
    ],
)
def test_half_matching_weights_are_refused(tmp_path: Path, damage, needle: str) -> None:
    path = save_tiny_model(tmp_path / "tiny.safetensors")
    tensors = load_file(path)
    damage(tensors)
    resave(path, tensors)
    with pytest.raises(CheckpointError, match=needle) as error:
        load_model(path)
    assert str(path) in str(error.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.safetensors"):
        load_model(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize("keep", [0, 5, 200, 0.5, 0.99])
def test_truncated_safetensors_are_refused(tmp_path: Path, keep: float) -> None:
    path = save_tiny_model(tmp_path / "tiny.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(path)


def test_unknown_safetensors_without_metadata_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="unknown layout: 1 tensors"):
        load_model(path)


def test_output_stride_of_old_files_is_the_networks(tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path / "tiny.safetensors")
    old = json.loads(tiny_metadata().to_json())
    del old["output_stride"]
    save_file(load_file(path), path, {"anomaly_seg_ros": json.dumps(old)})
    assert load_model(path)[1].output_stride == 4


def test_contradicting_output_stride_is_refused(tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path / "tiny.safetensors")
    wrong = tiny_metadata(output_stride=8)
    save_file(load_file(path), path, {"anomaly_seg_ros": wrong.to_json()})
    with pytest.raises(CheckpointError, match="output stride is 4, its metadata's 8"):
        load_model(path)
    with pytest.raises(CheckpointError, match="output stride"):
        save_model(tmp_path / "new.safetensors", tiny_network(), wrong)


def test_other_number_of_classes_is_refused(tmp_path: Path) -> None:
    metadata = tiny_metadata()
    fewer = replace(
        metadata, classes=metadata.classes[1:], palette=metadata.palette[1:], statistics=None
    )
    save_model(tmp_path / "x.safetensors", tiny_network(), fewer)
    with pytest.raises(CheckpointError, match="the network has 19 classes, its metadata 18"):
        load_model(tmp_path / "x.safetensors")


class Malicious:
    """Touches a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("container", ["torch", "bare pickle"])
def test_pickled_code_is_not_run(tmp_path: Path, container: str) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "executed"
    if container == "torch":
        torch.save({"weights": Malicious(trace)}, path)
    else:
        path.write_bytes(pickle.dumps(Malicious(trace)))
    with pytest.raises(CheckpointError, match=r"evil\.pth"):
        load_model(path)
    assert not trace.exists()


def test_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.pth"
    torch.save({"layer.weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="unknown layout"):
        load_model(path)
    torch.save({"state_dict": {"layer.weight": torch.zeros(3)}}, path)
    with pytest.raises(CheckpointError, match="unknown layout"):
        load_model(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(CheckpointError, match="no weights in it"):
        load_model(path)
    path.write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match=r"foreign\.pth"):
        load_model(path)


def test_public_erfnet_layout_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "some_erfnet.pth"
    torch.save(ERFNet().state_dict(), path)
    network, metadata = load_model(path)
    assert metadata.classes == load_taxonomy().classes
    assert metadata.output_stride == 1
    assert isinstance(network, ERFNet)


def test_a_training_checkpoint_loads_with_its_values_and_says_what_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "run.pth"
    tensors = tiny_network().state_dict()
    wrapped = {f"module.{key}": value.half() for key, value in tensors.items()}
    wrapped["module.criterion.weight"] = torch.ones(19)
    torch.save({"state_dict": wrapped, "epoch": 3}, path)
    network, metadata = load_model(path)
    for key, value in network.state_dict().items():
        assert torch.equal(value, tensors[key].half().to(value.dtype)), key
    assert metadata.arguments["decoder_channels"] == 16
    assert "criterion.weight" in caplog.text
    assert "float16 tensors became float32" in caplog.text


def test_our_own_weights_load_in_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_model(save_tiny_model(tmp_path / "tiny.safetensors"))
    assert not caplog.records


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="missing"):
        save_model(tmp_path / "missing" / "x.safetensors", tiny_network(), tiny_metadata())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("model", ["default", *PUBLIC])
def test_named_models(model: str, public_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMALY_SEG_WEIGHTS", str(public_weights))
    assert resolve_model(model).is_file()
    network, metadata = load_model(model)
    assert network.num_classes == len(metadata.classes) == 19


@pytest.mark.parametrize("model", PUBLIC)
def test_an_absent_public_file_is_named(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PUBLIC, model, "not_there.pth")
    monkeypatch.setenv("ANOMALY_SEG_WEIGHTS", str(tmp_path))
    with pytest.raises(CheckpointError, match=rf"'{model}': no not_there.pth.*ANOMALY_SEG_WEI"):
        resolve_model(model)

"""Strict, safe loading: a damaged, foreign or malicious file is refused by name."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import save_tiny_model, tiny_metadata, tiny_network

from anomaly_seg_ros.checkpoints import load_model, resolve_model, save_model
from anomaly_seg_ros.errors import CheckpointError, OutputError
from anomaly_seg_ros.metadata import ModelMetadata
from anomaly_seg_ros.models.erfnet import ERFNet


def resave(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, path, {"anomaly_seg_ros": tiny_metadata().to_json()})


def test_round_trip_is_exact(tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path / "tiny.safetensors")
    network, metadata = load_model(path)
    for key, value in tiny_network().state_dict().items():
        assert torch.equal(network.state_dict()[key], value), key
    assert metadata.to_json() == tiny_metadata().to_json()
    assert not network.training


def test_metadata_round_trip() -> None:
    metadata = tiny_metadata()
    restored = ModelMetadata.from_json(metadata.to_json())
    assert restored.calibration == metadata.calibration
    assert restored.classes == metadata.classes
    assert (restored.palette == metadata.palette).all()
    assert torch.equal(restored.statistics.std, metadata.statistics.std)


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


def test_safetensors_without_metadata_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="metadata"):
        load_model(path)


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
    with pytest.raises(CheckpointError, match="plain state dict"):
        load_model(path)
    path.write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match=r"foreign\.pth"):
        load_model(path)


def test_public_erfnet_layout_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "some_erfnet.pth"
    torch.save(ERFNet().state_dict(), path)
    network, metadata = load_model(path)
    assert metadata.name == "erfnet_cityscapes"
    assert isinstance(network, ERFNet)


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="missing"):
        save_model(tmp_path / "missing" / "x.safetensors", tiny_network(), tiny_metadata())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("model", ["default", "erfnet"])
def test_named_models(model: str, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMALY_SEG_WEIGHTS", str(shared_data.parent / "weights"))
    assert resolve_model(model).is_file()
    network, metadata = load_model(model)
    assert network.num_classes == len(metadata.classes) == 19


def test_absent_erfnet_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomaly_seg_ros.checkpoints._ERFNET_FILE", "not_there.pth")
    monkeypatch.setenv("ANOMALY_SEG_WEIGHTS", str(tmp_path))
    with pytest.raises(CheckpointError, match="ANOMALY_SEG_WEIGHTS"):
        resolve_model("erfnet")

# SPDX-License-Identifier: Apache-2.0
"""Weights: nothing pickled runs, nothing grows, and no metadata builds a network of any size."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from tiny import save_tiny_model, tiny_metadata, tiny_network

from anomaly_seg_ros.checkpoints.loading import load_model
from anomaly_seg_ros.checkpoints.metadata import METADATA_KEY, ModelMetadata
from anomaly_seg_ros.checkpoints.reading import find_state_dict, read_checkpoint
from anomaly_seg_ros.checkpoints.tensor_files import save_tensors
from anomaly_seg_ros.errors import CheckpointError
from tools.fuzzing.checkpoints import malicious_pickles, nested_key, torch_zip
from tools.fuzzing.target import Attack, Target
from training.engine.storage import load_checkpoint

PICKLES = malicious_pickles()


@pytest.mark.parametrize("name", PICKLES)
@pytest.mark.parametrize("in_zip", [True, False])
def test_pickled_calls_are_refused_and_not_made(tmp_path: Path, name: str, in_zip: bool) -> None:
    data = torch_zip(PICKLES[name]) if in_zip else PICKLES[name]

    def attempt(data: bytes, folder: Path) -> None:
        (folder / "x.pth").write_bytes(data)
        with pytest.raises(CheckpointError, match=r"x\.pth: "):
            load_model(folder / "x.pth")

    Attack(Target("x", "x", attempt, list), tmp_path)(data)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("in_zip", [True, False])
@pytest.mark.parametrize("depth", [10, 60])
def test_keys_that_take_for_ever_to_hash(tmp_path: Path, depth: int, in_zip: bool) -> None:
    data = nested_key(depth)
    path = tmp_path / "x.pth"
    if in_zip:
        path.write_bytes(torch_zip(data))
    else:
        torch.save({}, path, _use_new_zipfile_serialization=False)
        whole = path.read_bytes()
        empty = pickle.dumps({}, 2)
        path.write_bytes(whole.replace(empty, data))
        assert whole != path.read_bytes()
    with pytest.raises(CheckpointError, match="tuples" if depth > 16 else "no weights in it"):
        read_checkpoint(path)


@pytest.mark.parametrize("name", PICKLES)
def test_states_of_a_training_are_read_alike(tmp_path: Path, name: str) -> None:
    def attempt(data: bytes, folder: Path) -> None:
        for content in (data, torch_zip(data), data[:-1], b"\x80\x02X"):
            (folder / "last.pt").write_bytes(content)
            with pytest.raises(CheckpointError, match=r"last\.pt"):
                load_checkpoint(folder / "last.pt")

    Attack(Target("x", "x", attempt, list), tmp_path)(PICKLES[name])


def test_a_zip_file_that_grows_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1000, 1000)}, tmp_path / "plain.pth")
    assert read_checkpoint(tmp_path / "plain.pth").tensors["a"].shape == (1000, 1000)
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for member in plain.infolist():
            packed.writestr(member.filename, plain.read(member))
    assert (tmp_path / "packed.pth").stat().st_size < 20_000
    with pytest.raises(CheckpointError, match=r"packed\.pth: .* is compressed"):
        read_checkpoint(tmp_path / "packed.pth")


@pytest.mark.timeout(20)
def test_shared_parts_are_walked_once() -> None:
    table: dict = {"state_dict": {"a": torch.zeros(1)}}
    for _ in range(3):  # 300 ** 3 ways to the weights
        table = {f"part_{i}": table for i in range(300)}
    content = find_state_dict(table)
    assert content is not None
    assert list(content.tensors) == ["a"]
    cyclic: dict = {"a": torch.zeros(1)}
    cyclic["again"] = cyclic
    assert list(find_state_dict(cyclic).tensors) == ["a"]


CHANGES = {
    "no object": lambda raw: [raw],
    "an endless number of classes": lambda raw: {**raw, "arguments": {"num_classes": 1e999}},
    "a negative width": lambda raw: {**raw, "arguments": {"num_classes": 19, "width": -1}},
    "no arguments": lambda raw: {**raw, "arguments": 3},
    "a colour above 255": lambda raw: {**raw, "palette": [[0, 0, 256]] * 19},
    "a colour below 0": lambda raw: {**raw, "palette": [[0, 0, -1]] * 19},
    "colours of two parts": lambda raw: {**raw, "palette": [[0, 0]] * 19},
    "no colours": lambda raw: {**raw, "palette": []},
    "a mean that is no number": lambda raw: {**raw, "mean": [0, 0, float("nan")]},
    "a standard deviation of 0": lambda raw: {**raw, "std": [1, 1, 0]},
    "four means": lambda raw: {**raw, "mean": [1, 1, 1, 1]},
    "a mean of text": lambda raw: {**raw, "mean": "123"},
    "no rows": lambda raw: {**raw, "inference_size": [0, 8]},
    "endless rows": lambda raw: {**raw, "inference_size": [float("inf"), 8]},
    "too many rows": lambda raw: {**raw, "inference_size": [10**9, 8]},
    "one side": lambda raw: {**raw, "inference_size": [8]},
    "an unknown score": lambda raw: {**raw, "default_score": "../x"},
    "a score that is a list": lambda raw: {**raw, "default_score": []},
    "a name that is a list": lambda raw: {**raw, "name": ["x"]},
    "classes that are numbers": lambda raw: {**raw, "classes": list(range(19))},
    "calibration that is a list": lambda raw: {**raw, "calibration": [1]},
    "a rate above 1": lambda raw: _calibrated(raw, {"thresholds": [1.0], "rates": [2.0]}),
    "rates of text": lambda raw: _calibrated(raw, {"thresholds": ["a"], "rates": ["b"]}),
    "more rates than thresholds": lambda raw: _calibrated(raw, {"thresholds": [], "rates": [0]}),
    "statistics that are not finite": lambda raw: {
        **raw, "statistics": {"mean": [float("inf")] * 19, "std": [1.0] * 19}
    },
    "statistics of text": lambda raw: {**raw, "statistics": "x"},
}  # fmt: skip


def _calibrated(raw: dict, table: dict) -> dict:
    entry = {"threshold": 0.0, "scale": 1.0, "inlier_rates": table, "outlier_rates": None}
    return {**raw, "calibration": {"msp": entry}}


@pytest.mark.parametrize("what", CHANGES)
def test_metadata_with(tmp_path: Path, what: str) -> None:
    text = tiny_metadata().to_json()
    assert ModelMetadata.from_json(text).to_json() == text
    changed = json.dumps(CHANGES[what](json.loads(text)))
    save_tensors(tmp_path / "x.safetensors", tiny_network(), {METADATA_KEY: changed})
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path / "x.safetensors")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "{", "", '{"format": [[[]]]}'])
def test_metadata_that_are_no_json_of_ours(text: str) -> None:
    with pytest.raises(CheckpointError, match=r"x\.safetensors: .*metadata"):
        ModelMetadata.from_json(text, "x.safetensors")


def test_a_network_is_built_only_for_tensors_that_fit_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_model(save_tiny_model(tmp_path / "fits.safetensors"))
    classes = tuple(f"class {i}" for i in range(19))
    metadata = tiny_metadata(
        arguments={"num_classes": 10**9, "decoder_channels": 10**6}, classes=classes
    )
    header = {METADATA_KEY: metadata.to_json()}
    save_tensors(tmp_path / "large.safetensors", tiny_network(), header)
    monkeypatch.setattr(torch.nn.Module, "to_empty", lambda *_, **__: pytest.fail("it was built"))
    with pytest.raises(CheckpointError, match="does not fit DeepLabV3PlusLite"):
        load_model(tmp_path / "large.safetensors")


def test_pickles_are_looked_for_in_memory_only() -> None:
    # The attacks themselves are what they are meant to be: an ordinary unpickler would call them.
    import pickletools

    for name, data in PICKLES.items():
        opcodes = [opcode.name for opcode, _, _ in pickletools.genops(io.BytesIO(data))]
        assert opcodes[-2:] == ["REDUCE", "STOP"], name

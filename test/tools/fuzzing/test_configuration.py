# SPDX-License-Identifier: Apache-2.0
"""What people write and tools keep: plain values, small, and no way out of their folder."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from anomaly_seg_ros.datasets.base import add_overlay, number
from anomaly_seg_ros.datasets.label_map_file import read_label_map
from anomaly_seg_ros.errors import DatasetError, ImageError, OutputError, ParameterError
from anomaly_seg_ros.evaluation.dumps import read_dump
from anomaly_seg_ros.evaluation.plan import parse_data, parse_named
from anomaly_seg_ros.io.array_files import DAMAGED, read_npz
from anomaly_seg_ros.io.safe_yaml_json import inside, parse_json, parse_yaml, read_yaml, short_repr
from anomaly_seg_ros.metrics.pixel_scores import PixelScores
from anomaly_seg_ros.metrics.states import load_state, save_state
from anomaly_seg_ros.system.resources import ResourceError, asset_path, config_path
from anomaly_seg_ros.taxonomy import named_taxonomy, read_taxonomy
from training.engine.config import load_config

YAML = {
    "a command": "!!python/object/apply:os.system ['true']",
    "a Python name": "!!python/name:os.system ''",
    "a date that is none": "2001-13-45",
    "no timestamp": "!!timestamp x",
    "no truth": "!!bool x",
    "no number": "!!int x",
    "a number of 5000 digits": "9" * 5000,
    "a list as key": "? [a]\n: b",
    "brackets": "[" * 3000,
    "brackets after others": "]" * 3000 + "[" * 3000,
    "brackets in a long line": "[a " * 100_000,
    "lists in lists": "- " * 3000,
    "another tag": "!x y",
    "a zero byte": "\0",
}
NAMES = ["../x", "/x", "..", ".", "", "a/b", "a\\b", "a\0b", "x" * 300, 3, None, ["a"]]


def bomb() -> str:
    """A value of 9 ** 12 leaves, in a few hundred characters."""
    levels = ["a0: &a0 [lol]"]
    levels += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 13)]
    return "{" + ", ".join(levels) + "}"


@pytest.mark.parametrize("what", YAML)
def test_yaml_is_a_value_or_one_error(what: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"^option: not valid YAML \(") as raised:
        parse_yaml(YAML[what], "option", ParameterError)
    assert "\n" not in str(raised.value)
    (tmp_path / "x.yaml").write_text(YAML[what], encoding="utf-8")
    with pytest.raises(DatasetError, match=r"x\.yaml: not valid YAML"):
        read_yaml(tmp_path / "x.yaml", DatasetError)


def test_files_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "x.yaml", tmp_path / "none", tmp_path, Path("a\0b"), Path("x" * 999)):
        with pytest.raises(DatasetError):
            read_yaml(path, DatasetError)


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, "{", "", b"\xff", '{"a": }'])
def test_json_is_a_value_or_one_error(text: str | bytes) -> None:
    with pytest.raises(DatasetError, match=r"^file: not valid JSON \("):
        parse_json(text, "file", DatasetError)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    ["labels: {0: %s}", "labels: {0: road}\nothers: %s", "labels: {0: road}\n? %s\n: 1",
     "labels: {0: road}\ntaxonomy: %s", "labels: %s"],
)  # fmt: skip
def test_aliases_do_not_fill_messages(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text % bomb(), encoding="utf-8")
    with pytest.raises(DatasetError) as caught:
        read_label_map(tmp_path / "x.yaml")
    assert len(str(caught.value)) < 2000


@pytest.mark.timeout(20)
def test_aliases_do_not_fill_messages_of_the_training(tmp_path: Path) -> None:
    (tmp_path / "defaults.yaml").write_text("a: 1\nb: [1, 2]\nc: 0.5\n", encoding="utf-8")
    for key in ("a", "b", "c"):
        with pytest.raises(ParameterError, match=f"{key} must be") as caught:
            load_config(tmp_path / "defaults.yaml", overrides=[f"{key}={bomb()}"])
        assert len(str(caught.value)) < 1000


def test_shown_values_are_those_of_repr_if_short() -> None:
    for value in ("text", 3, 0.5, [1, 2], {"a": 1}, None, "it's"):
        assert short_repr(value) == repr(value)
    assert len(short_repr("x" * 10**6)) < 100
    assert len(short_repr([["x" * 50] * 50] * 50)) < 3000


@pytest.mark.parametrize("name", ["../../x", "../x", "a/../../x", "a\0b"])
def test_names_of_own_files_do_not_lead_out(name: str, tmp_path: Path) -> None:
    for find in (config_path, asset_path, named_taxonomy):
        with pytest.raises(ResourceError, match="leads out"):
            find(name)
    with pytest.raises(ResourceError, match="leads out"):
        config_path("/etc/passwd")
    (tmp_path / "x.yaml").write_text(json.dumps({"taxonomy": name, "labels": {"0": "road"}}))
    with pytest.raises(DatasetError, match="must be a name, or that of a file in the same folder"):
        read_label_map(tmp_path / "x.yaml")


@pytest.mark.parametrize("name", NAMES)
def test_only_names_of_files_are_inside_of_a_folder(name: object, tmp_path: Path) -> None:
    assert inside(tmp_path, "a.png") == tmp_path / "a.png"
    with pytest.raises(ValueError, match="no name of a file"):
        inside(tmp_path, name)


@pytest.mark.parametrize("value", [10**400, float("inf"), float("nan"), "1", True, None, [1]])
def test_numbers_are_finite(value: object) -> None:
    assert number(3, "fx", Path("camera.json")) == 3.0
    with pytest.raises(DatasetError, match=r"camera\.json: key 'fx' must be a"):
        number(value, "fx", Path("camera.json"))


@pytest.mark.parametrize(
    "entry", ["{name: a, colour: [1, 2, .inf]}", "{name: [a], colour: [1, 2, 3]}", "3", "[]",
              "{name: a, colour: 3}", "{name: a, colour: [1, 2]}"],
)  # fmt: skip
def test_classes_of_any_shape(entry: str, tmp_path: Path) -> None:
    from anomaly_seg_ros.errors import CheckpointError

    (tmp_path / "x.yaml").write_text(f"classes: [{entry}]", encoding="utf-8")
    with pytest.raises(CheckpointError, match="class 0"):
        read_taxonomy(tmp_path / "x.yaml")


def test_what_to_evaluate_may_be_any_text() -> None:
    assert parse_named("x" * 5000).source == "x" * 5000
    assert parse_data("a=" + "x" * 5000).label == "a"
    with pytest.raises(ParameterError, match="zero byte"):
        parse_data("a\0b")


def test_arrays_are_no_larger_than_their_file(tmp_path: Path) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 8)}
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(ImageError, match=r"x\.npy: cannot read scores"):
        read_dump(tmp_path / "x.npy", (6, 8))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.write(tmp_path / "x.npy", "rgb.npy")
    with pytest.raises(ImageError, match=r"x\.npz: .*does not fit"):
        add_overlay(np.zeros((6, 8, 3), np.uint8), tmp_path / "x.npz")
    with pytest.raises(ValueError, match="does not fit"):
        read_npz(tmp_path / "x.npz")


def test_packed_arrays_do_not_grow(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", rgb=np.zeros(10**7, np.int64))
    assert (tmp_path / "x.npz").stat().st_size < 200_000
    assert read_npz(tmp_path / "x.npz")["rgb"].size == 10**7
    with pytest.raises(ImageError, match="more than"):
        add_overlay(np.zeros((6, 8, 3), np.uint8), tmp_path / "x.npz")


def test_npz_files_are_read_as_numpy_reads_them(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(6.0).reshape(2, 3), "b": np.array(["x", "yz"]), "c": np.array(3),
        "d": np.asfortranarray(np.arange(6).reshape(2, 3)), "e": np.zeros((0, 3), np.uint8),
    }  # fmt: skip
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    found = read_npz(tmp_path / "x.npz")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)
    np.savez(tmp_path / "objects.npz", a=np.array([{}], object), allow_pickle=True)
    with pytest.raises(DAMAGED, match="pickled"):
        read_npz(tmp_path / "objects.npz")


def test_compressed_states_are_refused(tmp_path: Path) -> None:
    pixels = PixelScores()
    pixels.update(np.zeros((4, 4), np.float32), np.eye(4, dtype=np.uint8), "a")
    save_state(pixels, tmp_path / "a.state")
    load_state(tmp_path / "a.state")
    with (
        zipfile.ZipFile(tmp_path / "a.state") as plain,
        zipfile.ZipFile(tmp_path / "b.state", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for member in plain.infolist():
            packed.writestr(member.filename, plain.read(member))
    with pytest.raises(OutputError, match="compressed"):
        load_state(tmp_path / "b.state")


def test_scores_in_hdf5_lie_in_the_file_itself(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    scores = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
    with h5py.File(tmp_path / "own.hdf5", "w") as file:
        file["value"] = scores
    assert np.array_equal(read_dump(tmp_path / "own.hdf5", (6, 8)), scores)
    scores.tofile(tmp_path / "raw")
    layout = h5py.VirtualLayout((6, 8), np.float32)
    layout[:] = h5py.VirtualSource(tmp_path / "own.hdf5", "value", (6, 8))
    ways = {
        "external": lambda file: file.__setitem__(
            "value", h5py.ExternalLink(str(tmp_path / "own.hdf5"), "value")
        ),
        "raw": lambda file: file.create_dataset(
            "value", (6, 8), np.float32, external=[(str(tmp_path / "raw"), 0, 192)]
        ),
        "virtual": lambda file: file.create_virtual_dataset("value", layout),
        "soft": lambda file: file.__setitem__("value", h5py.SoftLink("/other")),
        "group": lambda file: file.create_group("value"),
        "large": lambda file: file.create_dataset(
            "value", (1 << 20, 1 << 20), np.float32, chunks=(1, 1)
        ),
    }
    for name, write in ways.items():
        with h5py.File(tmp_path / f"{name}.hdf5", "w") as file:
            write(file)
        with pytest.raises(ImageError, match=f"{name}.hdf5: cannot read scores .its 'value'"):
            read_dump(tmp_path / f"{name}.hdf5", (6, 8))

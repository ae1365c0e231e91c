# SPDX-License-Identifier: Apache-2.0
"""Targets: files and options that people write and tools keep: YAML, JSON, arrays, states."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from anomaly_seg_ros.datasets.base import add_overlay
from anomaly_seg_ros.datasets.camvid import CamVidDataset
from anomaly_seg_ros.datasets.cityscapes import read_camera
from anomaly_seg_ros.datasets.clip import ClipDataset
from anomaly_seg_ros.datasets.label_map_file import read_label_map
from anomaly_seg_ros.datasets.vistas import VistasDataset
from anomaly_seg_ros.datasets.wilddash import WildDashDataset
from anomaly_seg_ros.evaluation.accumulate import read_progress
from anomaly_seg_ros.evaluation.dumps import read_dump, write_dump
from anomaly_seg_ros.evaluation.image_counts import ImageCounts
from anomaly_seg_ros.evaluation.plan import Plan, parse_data, parse_named
from anomaly_seg_ros.evaluation.snapshots import VERSION, Snapshots
from anomaly_seg_ros.metrics.pixel_scores import PixelScores
from anomaly_seg_ros.metrics.states import load_state, save_state
from anomaly_seg_ros.system.resources import config_path
from anomaly_seg_ros.taxonomy import read_taxonomy
from tools.fuzzing.target import Target
from training.engine.config import load_config

_SHAPE = (6, 8)
# A value of each type that occurs in the training's configurations.
_SCHEMA = b"""
seed: 1
rate: 0.1
name: erfnet
amp: false
size: [512, 1024]
limit: null
options: {}
mixing: {paste: {rate: 0.5}}
"""
# YAML at which parsers stumble.
_YAML_ATTACKS = (
    b"!!python/object/apply:os.system ['touch owned']",
    b"!!python/name:os.system",
    b"a: 2001-13-45",
    b"!!timestamp x",
    b"!!bool x",
    b"!!int x",
    b"? [a]\n: b",
    b"- [" * 200,
    b"[" * 600,
    b"9" * 5000,
    b"\xff\xfe",
    b"\x00",
    b"",
)


def _bomb(key: bytes) -> bytes:
    """YAML of a few hundred bytes whose value has 9 ** 12 leaves when printed."""
    leaves = [b"a0: &a0 [lol]"]
    levels = [b"a%d: &a%d [%b]" % (i, i, b",".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 13)]
    # One flow value, because a document of its own would be refused for its keys.
    return key % (b"{" + b", ".join(leaves + levels) + b"}")


def _file(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], None]:
    def attempt(data: bytes, folder: Path) -> None:
        (folder / name).write_bytes(data)
        read(folder / name)

    return attempt


def _training(data: bytes, folder: Path) -> None:
    (folder / "defaults.yaml").write_bytes(_SCHEMA)
    (folder / "x.yaml").write_bytes(data)
    load_config(folder / "defaults.yaml", folder / "x.yaml")


def _option(data: bytes, folder: Path) -> None:
    (folder / "defaults.yaml").write_bytes(_SCHEMA)
    load_config(folder / "defaults.yaml", overrides=[data.decode("utf-8", "replace")])


def _parameters(data: bytes, folder: Path) -> None:
    from anomaly_seg_ros.ros.parameters import read_defaults  # needs ROS

    (folder / "x.yaml").write_bytes(data)
    read_defaults(folder / "x.yaml")


def _clip(data: bytes, folder: Path) -> None:
    for name in ("images", "labels", "anomaly_mask"):
        (folder / name).mkdir()
    (folder / "images" / "1.jpg").touch()
    (folder / "camera.json").write_bytes(data)
    ClipDataset(folder)


def _camvid(data: bytes, folder: Path) -> None:
    (folder / "701_StillsRaw_full").mkdir()
    (folder / "701_StillsRaw_full" / "1.png").touch()
    (folder / "label_colors.txt").write_bytes(data)
    CamVidDataset(folder)


def _camvid_ids(data: bytes, folder: Path) -> None:
    for name in ("images", "labels"):
        (folder / name).mkdir()
        (folder / name / "1.png").touch()
    (folder / "classes.json").write_bytes(data)
    CamVidDataset(folder)


def _vistas(data: bytes, folder: Path) -> None:
    (folder / "validation" / "images").mkdir(parents=True)
    (folder / "validation" / "images" / "1.jpg").touch()
    (folder / "config.json").write_bytes(data)
    VistasDataset(folder)


def _wilddash(data: bytes, folder: Path) -> None:
    (folder / "images").mkdir()
    (folder / "panoptic.json").write_bytes(data)
    WildDashDataset(folder)


def _configuration(data: bytes, folder: Path) -> None:
    (folder / "configuration.json").write_bytes(data)
    Snapshots(folder).check_configuration({"scores": ["msp"], "limit": None})


def _progress(data: bytes, folder: Path) -> None:
    (folder / "progress.json").write_bytes(data)
    read_progress(folder)


def _plan(data: bytes, folder: Path) -> None:
    text = data.decode("utf-8", "replace")
    Plan((parse_named(text),), (parse_data(text),), folder)


@cache
def _written(name: str, write: Callable[[Path], None]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / name)
        return (Path(folder) / name).read_bytes()


def _scores() -> np.ndarray:
    return np.linspace(-1, 1, 48, dtype=np.float32).reshape(_SHAPE)


def _state(path: Path) -> None:
    pixels = PixelScores(per_image=True)
    pixels.update(_scores(), (np.arange(48) % 3 == 0).astype(np.uint8).reshape(_SHAPE), "a")
    save_state(pixels, path)


def _npy(path: Path) -> None:
    write_dump(path, _scores())


def _npz(path: Path) -> None:
    np.savez_compressed(path, rgb=np.zeros((*_SHAPE, 3), np.int16))


def _huge_npy() -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 8)}
    )
    return file.getvalue()


def _hdf5_elsewhere(path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file["value"] = h5py.ExternalLink("../outside/secret.hdf5", "value")


def _own(name: str) -> list[bytes]:
    return [config_path(name).read_bytes(), *_YAML_ATTACKS]


_LABEL_MAP = b"taxonomy: cityscapes\nlabels:\n  0: road\n  1: 13\n  255: ignore\nothers: known\n"
_CAMERA = {"fx": 1, "fy": 1, "cx": 1, "cy": 1, "baseline_m": 0.1, "frame_rate": 10}
_TREE = {"intrinsic": {"fx": 1, "fy": 1, "u0": 1, "v0": 1}, "extrinsic": {"baseline": 0.2}}
_PANOPTIC = {
    "images": [{"id": "a", "file_name": "a.jpg"}],
    "annotations": [
        {"image_id": "a", "file_name": "a.png", "segments_info": [{"id": 9, "category_id": 7}]}
    ],
}
_CONFIGURATION = {"version": VERSION, "scores": ["msp"], "limit": None}
_JSON_ATTACKS = (b"[" * 5000, b"1" * 5000, b'{"fx": 1e999}', b"NaN", b"null", b"{}", b"\xff", b"")


def _json(value: object) -> list[bytes]:
    return [json.dumps(value).encode(), *_JSON_ATTACKS]


TARGETS = (
    Target(
        "parameters",
        "the node's parameters (detector.yaml)",
        _parameters,
        lambda: _own("detector.yaml"),
    ),
    Target(
        "training_config",
        "configurations of the training",
        _training,
        lambda: [_SCHEMA, _bomb(b"seed: %s"), _bomb(b"size: [%s, 1]"), *_YAML_ATTACKS],
    ),
    Target(
        "training_option",
        "--set KEY=VALUE of the training",
        _option,
        lambda: [
            b"seed=3",
            b"mixing.paste.rate=1e-3",
            b"=",
            b"." * 1200 + b"=1",
            *(b"seed=" + x for x in _YAML_ATTACKS),
        ],
    ),
    Target(
        "label_map",
        "label maps of folders",
        _file("x.yaml", read_label_map),
        lambda: [
            _LABEL_MAP,
            b'labels: {"#804080": road, "#000000": ignore}',
            b"taxonomy: ../../outside/secret\nlabels: {0: road}",
            _bomb(b"labels: {0: %s}"),
            _bomb(b"labels: {0: road}\nothers: %s"),
            *_YAML_ATTACKS,
        ],
    ),
    Target(
        "taxonomy",
        "classes and colours",
        _file("x.yaml", read_taxonomy),
        lambda: [*_own("taxonomies/cityscapes.yaml"), _bomb(b"classes: [{name: %s}]")],
    ),
    Target("clip", "a clip's camera.json", _clip, lambda: _json(_CAMERA)),
    Target(
        "camera", "Cityscapes camera files", _file("x.json", read_camera), lambda: _json(_TREE)
    ),
    Target(
        "label_colors",
        "CamVid's label_colors.txt",
        _camvid,
        lambda: [b"64 128 64 Animal\n0 0 0 Void\n", b"1" * 5000 + b" 1 1 a", b"\xff", b""],
    ),
    Target(
        "classes",
        "CamVid's classes.json",
        _camvid_ids,
        lambda: _json({"0": "Road", "1": "Animal"}),
    ),
    Target(
        "vistas",
        "Vistas' config.json",
        _vistas,
        lambda: _json({"labels": [{"name": "nature--sky"}, {"name": "void--unlabeled"}]}),
    ),
    Target("wilddash", "WildDash's panoptic.json", _wilddash, lambda: _json(_PANOPTIC)),
    Target(
        "plan",
        "what to evaluate",
        _plan,
        lambda: [
            b"a=folder",
            b"a=cityscapes:/x?split=val&void=true",
            b"b=bag:/x",
            b"\0",
            b"x?y",
            b"=" * 60,
            b"a" * 5000,
            b"../../x",
            b"a/../..",
        ],
    ),
    Target(
        "snapshot",
        "the configuration of an interrupted run",
        _configuration,
        lambda: _json(_CONFIGURATION),
    ),
    Target(
        "progress",
        "frames that a run has counted",
        _progress,
        lambda: _json({"done": [[0, "a"]], "seconds": 1.5}),
    ),
    Target(
        "state",
        "states of the metrics",
        _file("x.state", load_state),
        lambda: [_written("x.state", _state)],
    ),
    Target(
        "dump_npy",
        "scores as .npy",
        _file("x.npy", lambda path: read_dump(path, _SHAPE)),
        lambda: [_written("x.npy", _npy), _huge_npy()],
    ),
    Target(
        "dump_hdf5",
        "scores as .hdf5",
        _file("x.hdf5", lambda path: read_dump(path, _SHAPE)),
        lambda: [_written("x.hdf5", _npy), _written("x.hdf5", _hdf5_elsewhere)],
    ),
    Target(
        "overlay",
        "overlays of Fishyscapes Static",
        _file("x.npz", lambda path: add_overlay(np.zeros((*_SHAPE, 3), np.uint8), path)),
        lambda: [_written("x.npz", _npz)],
    ),
    Target(
        "image_counts",
        "counts of single images",
        _file("x.npz", ImageCounts.load),
        lambda: [_written("x.npz", _npz)],
    ),
)

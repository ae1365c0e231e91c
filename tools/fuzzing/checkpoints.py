# SPDX-License-Identifier: Apache-2.0
"""Targets: files of weights."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from functools import cache
from pathlib import Path

import safetensors.torch
import torch

from anomaly_seg_ros.calibration import RateTable, ScoreCalibration
from anomaly_seg_ros.checkpoints.formats import FORMATS
from anomaly_seg_ros.checkpoints.inspection import as_text, inspect_checkpoint
from anomaly_seg_ros.checkpoints.loading import load_model
from anomaly_seg_ros.checkpoints.metadata import METADATA_KEY, ModelMetadata
from anomaly_seg_ros.checkpoints.reading import Checkpoint, read_checkpoint
from anomaly_seg_ros.checkpoints.recognise import recognise
from anomaly_seg_ros.errors import CheckpointError
from anomaly_seg_ros.scores import ClassStatistics
from anomaly_seg_ros.taxonomy import load_taxonomy
from tools.fuzzing.target import Target
from tools.fuzzing.watch import CANARY

_ARGUMENTS = {"num_classes": 19, "decoder_channels": 16, "skip_channels": 8}


def _read(path: Path) -> None:
    """Inspects and loads a file of weights; only CheckpointError may be raised."""
    try:
        as_text(inspect_checkpoint(read_checkpoint(path)))
    except CheckpointError:
        load_model(path)
        raise
    load_model(path)


def metadata_text() -> str:
    """Valid metadata of a small model."""
    taxonomy = load_taxonomy()
    rates = RateTable((-5.0, 0.0), (0.9, 0.1))
    return ModelMetadata(
        name="tiny",
        architecture="deeplab_v3plus_lite",
        arguments=_ARGUMENTS,
        classes=taxonomy.classes,
        palette=taxonomy.palette,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        inference_size=(64, 96),
        calibration={"msp": ScoreCalibration(0.1, 1.0, rates, rates)},
        statistics=ClassStatistics(torch.full((19,), 0.2), torch.full((19,), 0.4)),
        provenance={"weights": "random"},
    ).to_json()


def _metadata(data: bytes, folder: Path) -> None:
    header = {METADATA_KEY: data.decode("utf-8", "replace")}
    found = recognise(Checkpoint(folder / "x", "safetensors", {}, header))
    found.metadata.to_json()


@cache
def _metadata_seeds() -> list[bytes]:
    text = metadata_text()
    seeds = [text.encode()]
    changes = {
        '"num_classes": 19': ['"num_classes": 1e999', '"num_classes": 100000000000000'],
        '"decoder_channels": 16': ['"decoder_channels": -1', '"decoder_channels": [1]'],
        '"architecture": "deeplab_v3plus_lite"': [
            f'"architecture": "{name}"' for name in ("erfnet", "wrapped", "wide_resnet38", "os")
        ],
        '"threshold": 0.1': ['"threshold": NaN', f'"threshold": {"9" * 5000}'],
    }
    for old, replacements in changes.items():
        seeds += [text.replace(old, new).encode() for new in replacements]
    nested = text.replace('"weights": "random"', '"weights": ' + "[" * 3000 + "]" * 3000)
    return [*seeds, nested.encode(), b"[" * 5000, b"null", b"{}"]


def _safetensors(data: bytes, folder: Path) -> None:
    (folder / "x.safetensors").write_bytes(data)
    _read(folder / "x.safetensors")


def _safetensors_seeds() -> list[bytes]:
    types = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
    tensors = {f"a.{i}": torch.ones(2, 3).to(kind) for i, kind in enumerate(types)}
    plain = safetensors.torch.save(tensors)
    ours = safetensors.torch.save(tensors, {METADATA_KEY: metadata_text()})
    kinds = ("F4", "F6_E2M3", "F8_E4M3", "F8_E8M0", "C64", "U64", "I4")
    return [plain, ours, *(_safetensors_of(kind) for kind in kinds)]


def _safetensors_of(kind: str) -> bytes:
    header = json.dumps({"x": {"dtype": kind, "shape": [8], "data_offsets": [0, 8]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(64)


def torch_zip(data: bytes) -> bytes:
    """A file of torch.save with any pickle in it, beside one storage."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/data.pkl", data)
        archive.writestr("x/byteorder", "little")
        archive.writestr("x/data/0", bytes(64))
        archive.writestr("x/version", "3\n")
    return file.getvalue()


def _zip_pickle(data: bytes, folder: Path) -> None:
    (folder / "x.pth").write_bytes(torch_zip(data))
    _read(folder / "x.pth")


def _file(data: bytes, folder: Path) -> None:
    (folder / "x.pth").write_bytes(data)
    _read(folder / "x.pth")


def _saved(content: object, zipped: bool) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


_CONTENT = {
    "state_dict": {"a.weight": torch.ones(2, 3), "a.bias": torch.zeros(2)},
    "epoch": 3,
    "optimizer": {"state": {}},
}


def malicious_pickles() -> dict[str, bytes]:
    """Pickles that would call something if unpickled, by the name of the function."""
    calls = {
        "os.system": ("os", "system", "touch owned"),
        "posix.system": ("posix", "system", "touch owned"),
        "builtins.eval": ("builtins", "eval", "__import__('os').system('true')"),
        "builtins.exec": ("builtins", "exec", "import os"),
        "subprocess.Popen": ("subprocess", "Popen", "true"),
        "import": (CANARY, "run", "now"),
        "torch.load": ("torch", "load", "/etc/passwd"),
        "torch.hub.load": ("torch.hub", "load", "a/b"),
        "torch.ops.load_library": ("torch", "ops.load_library", "libm.so.6"),
        "shutil.rmtree": ("shutil", "rmtree", "owned"),
        "pathlib.Path": ("pathlib", "PosixPath", "owned"),
        "getattr": ("builtins", "getattr", "os"),
        "numpy.load": ("numpy", "load", "/etc/passwd"),
    }  # fmt: skip
    return {
        name: b"".join((
            b"\x80\x02c", module.encode(), b"\n", function.encode(), b"\n",
            b"X", struct.pack("<I", len(argument)), argument.encode(), b"\x85R.",
        ))
        for name, (module, function, argument) in calls.items()
    }  # fmt: skip


def _nested_sharing(depth: int) -> bytes:
    """A dict whose text would have 2 ** depth parts: each level holds the next one twice."""
    levels: dict = {"x": 1}
    for _ in range(depth):
        levels = {"a": levels, "b": levels}
    return pickle.dumps(levels, 2)


def nested_key(depth: int) -> bytes:
    """A dict with a key of tuples in tuples, which takes 2 ** depth steps to hash."""
    pairs = b"".join(b"h%c\x86q%c" % (i, i + 1) for i in range(depth))
    return b"\x80\x02}K\x01\x85q\x00" + pairs + b"K\x02s."


def _pickles() -> list[bytes]:
    with zipfile.ZipFile(io.BytesIO(_saved(_CONTENT, zipped=True))) as archive:
        plain = next(archive.read(name) for name in archive.namelist() if "data.pkl" in name)
    return [plain, *malicious_pickles().values(), _nested_sharing(60), nested_key(60)]


def _files() -> list[bytes]:
    return [
        _saved(_CONTENT, zipped=True),
        _saved(_CONTENT, zipped=False),
        *malicious_pickles().values(),
    ]


@cache
def _layout_keys() -> tuple[tuple[str, ...], ...]:
    return tuple(layout.landmarks for layout in FORMATS.values())


def _shapes(data: bytes, folder: Path) -> None:
    """The keys of a known layout with shapes taken from bytes."""
    landmarks = _layout_keys()[data[0] % len(_layout_keys())] if data else ()
    sizes = iter(data[1:])
    tensors = {}
    for key in landmarks:
        shape = [next(sizes, 1) for _ in range(next(sizes, 0) % 5)]
        tensors[key] = torch.empty(shape, device="meta")
    recognise(Checkpoint(folder / "x", "safetensors", tensors))


TARGETS = (
    Target("safetensors", "safetensors files", _safetensors, _safetensors_seeds),
    Target("metadata", "our JSON in their header", _metadata, _metadata_seeds),
    Target("torch_pickle", "pickles in torch's zip files", _zip_pickle, _pickles),
    Target("torch_file", "torch zip and legacy files", _file, _files),
    Target(
        "shapes",
        "public layouts with any shapes",
        _shapes,
        lambda: [bytes([i]) + bytes([4, 19, 255, 1, 1] * 8) for i in range(5)],
    ),
)

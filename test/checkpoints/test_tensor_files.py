# SPDX-License-Identifier: Apache-2.0
"""The content of a file decides, not its ending; and what is no file of weights is named."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from tiny import save_tiny_model

from anomaly_seg_ros.checkpoints.loading import load_model
from anomaly_seg_ros.checkpoints.reading import read_checkpoint
from anomaly_seg_ros.checkpoints.tensor_files import read_tensors
from anomaly_seg_ros.cli import inspect_model
from anomaly_seg_ros.errors import CheckpointError

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor([1.5])}
ENDINGS = (".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".tar", "")


def torch_file(**options: object) -> bytes:
    file = io.BytesIO()
    torch.save(TENSORS, file, **options)
    return file.getvalue()


FORMATS = {
    "safetensors": lambda: save(TENSORS),
    "torch zip": torch_file,
    "torch before 1.6": lambda: torch_file(_use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("container", FORMATS)
def test_the_content_decides(container: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{ending}"
    path.write_bytes(FORMATS[container]())
    read = read_checkpoint(path)
    assert read.container == container
    assert read.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(read.tensors[key], value) for key, value in TENSORS.items())


def test_a_model_of_this_package_under_another_name(tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path / "tiny.safetensors")
    renamed = path.rename(tmp_path / "tiny.pth")
    assert load_model(renamed)[1].name == "tiny"


def safetensors_of(dtype: str, size: int, shape: list[int]) -> bytes:
    header = {"w": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"\x38" * size


def archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for name, content in members.items():
            written.writestr(name, content)
    return file.getvalue()


def arrays() -> bytes:
    file = io.BytesIO()
    np.savez(file, weight=np.zeros(3))
    return file.getvalue()


def array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as written:
        written.addfile(tarfile.TarInfo("weights.pth"))
    return file.getvalue()


def exported() -> bytes:
    class Twice(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    file = io.BytesIO()
    torch.export.save(torch.export.export(Twice(), (torch.zeros(2),)), file)
    return file.getvalue()


OPENVINO = b'<?xml version="1.0"?>\n<net name="Model0" version="11">\n\t<layers>'
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 12\n"
# Content -> what must be said of it.
OTHERS = {
    "lfs": (lambda: LFS, "git lfs pull"),
    "web page": (lambda: b"\n<!DOCTYPE html><html>quota exceeded</html>", "a web page"),
    "web page with a mark": (lambda: b"\xef\xbb\xbf<html>", "a web page"),
    "xml error": (lambda: b'<?xml version="1.0"?><Error>AccessDenied</Error>', "a web page"),
    "openvino": (lambda: OPENVINO, "unsupported: an OpenVINO model, a program"),
    "onnx": (lambda: b"\x08\x0a\x12\x07pytorch\x1a\x062.14.1:", "unsupported: probably an ONNX"),
    "tflite": (lambda: b"\x1c\0\0\0TFL3" + bytes(20), "unsupported: a TensorFlow Lite model"),
    "hdf5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(90), "unsupported: an HDF5 file"),
    "gguf": (lambda: b"GGUF\3\0\0\0" + bytes(90), "unsupported: a GGUF file"),
    "npy": (array, "unsupported: a NumPy array"),
    "npz": (arrays, "unsupported: NumPy arrays"),
    "pt2": (exported, "unsupported: a torch.export program"),
    "zip": (lambda: archive(**{"weights.pth": b"x"}), "an archive that torch.save did not write"),
    "gzip": (lambda: gzip.compress(torch_file()), "a gzip archive; unpack it"),
    "tar": (tarred, "a tar archive; unpack it"),
    "index": (
        lambda: b'{"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}',
        "the list of weights that lie in several files",
    ),
    "text": (lambda: b"404: Not Found", "a text that begins '404: Not Found'"),
    "json": (lambda: b'{"error": "Invalid credentials"}', "a text that begins"),
    "zeros": (lambda: bytes(100), "not a readable checkpoint: damaged, or in an unsupported"),
    "empty": (lambda: b"", "the file is empty"),
    "one byte": (lambda: b"\x80", "damaged: cut short"),
    "the first bytes of a length": (lambda: b"0\xb1\x00\x00\x00", "checkpoint: damaged"),
    "pickle": (lambda: b"\x80\x04}\x94.", "not a readable checkpoint"),
    "unknown type": (lambda: safetensors_of("F8_E9M9", 4, [4]), "unsupported: tensors of type F8"),
    "no type of torch": (lambda: safetensors_of("F6_E2M3", 3, [4]), "unsupported: tensors of typ"),
    "no conversion": (lambda: safetensors_of("F4", 2, [4]), "unsupported: torch cannot convert"),
}


def refusal(path: Path) -> str:
    """What is said of a file, checked for what must never be said."""
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    for advice in ("weights_only", "Weights only", "trusted source", "file an issue"):
        assert advice not in message
    return message


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_file_of_weights_is_named(name: str, ending: str, tmp_path: Path) -> None:
    make, words = OTHERS[name]
    path = tmp_path / f"weights{ending}"
    path.write_bytes(make())
    assert words in refusal(path)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("container", FORMATS)
def test_a_cut_file_is_said_to_be_cut(
    container: str, keep: float, ending: str, tmp_path: Path
) -> None:
    path = tmp_path / f"weights{ending}"
    content = FORMATS[container]()
    path.write_bytes(content[: int(keep * len(content))])
    message = refusal(path)
    assert "damaged" in message
    assert "cut short" in message
    assert "copy or download it again" in message


def test_eight_bit_floats_are_converted_aloud(tmp_path: Path) -> None:
    path = tmp_path / "fp8.safetensors"
    path.write_bytes(safetensors_of("F8_E4M3", 4, [4]))
    read = read_checkpoint(path)
    assert read.tensors["w"].tolist() == [1.0] * 4  # 0x38
    assert read.changes == ("1 float8_e4m3fn tensors were converted to float32",)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "nowhere.pth", "no such file: "),
        (lambda folder: folder, "a folder, not a file; give a file, such as model.safetensors"),
        (lambda folder: folder / ("x" * 300), "x"),
        (lambda folder: folder / "model.safetensors" / "x.pth", "no such file: "),
    ],
)
def test_what_cannot_be_opened(
    make: Callable[[Path], Path], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    path = make(tmp_path)
    assert inspect_model.main([str(path)]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert words in refusal(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    assert "not a plain file" in refusal(tmp_path / "pipe.pth")


@pytest.mark.parametrize("locked", ["file", "folder"])
def test_no_permission(locked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    path = folder / "weights.pth"
    path.write_bytes(torch_file())
    (path if locked == "file" else folder).chmod(0)
    if os.access(path, os.R_OK):  # root may read everything: refuse as the kernel would
        name = "open" if locked == "file" else "exists"

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, name, refuse)
    message = refusal(path)
    monkeypatch.undo()
    folder.chmod(0o700)
    assert "no permission to read it" in message


def test_readers_of_safetensors_alone_say_so(tmp_path: Path) -> None:
    path = tmp_path / "flow.safetensors"
    path.write_bytes(torch_file())
    with pytest.raises(CheckpointError, match=r"written by torch\.save, where safetensors"):
        read_tensors(path)

# SPDX-License-Identifier: Apache-2.0
"""Only tensors, containers, plain values and NumPy numbers are read; nothing pickled is run."""

from __future__ import annotations

import argparse
import collections
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from anomaly_seg_ros.checkpoints.pickles import unpickle
from anomaly_seg_ros.errors import CheckpointError

ZIP_OR_LEGACY = pytest.mark.parametrize("zipped", [True, False])


@ZIP_OR_LEGACY
@pytest.mark.parametrize(
    "scalar",
    [
        np.float64(0.9064), np.float32(-1.5), np.float16(2.25),
        np.int64(-(2**62)), np.int32(7), np.uint8(255), np.bool_(True),
    ],
    ids=lambda scalar: type(scalar).__name__,
)  # fmt: skip
def test_numpy_numbers_are_read(save: Callable, scalar: np.generic, zipped: bool) -> None:
    path = save({"mean_iu": scalar}, _use_new_zipfile_serialization=zipped)
    content, container = unpickle(path)
    assert content["mean_iu"] == scalar.item()
    assert type(content["mean_iu"]) is type(scalar.item())
    assert container == ("torch zip" if zipped else "torch before 1.6")


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_numpy_numbers_of_both_major_versions(save: Callable, module: bytes) -> None:
    path = save({"epoch": np.int64(3)}, _use_new_zipfile_serialization=False)
    written = path.read_bytes()
    here = np.float64(0).__reduce__()[0].__module__.encode()
    assert here in written
    path.write_bytes(written.replace(here, module))
    assert unpickle(path)[0] == {"epoch": 3}


def test_numbers_of_a_big_endian_machine(save: Callable) -> None:
    path = save({"x": np.float64(1.5)}, _use_new_zipfile_serialization=False)
    little = np.float64(1.5).tobytes()

    def pickled(text: str) -> bytes:
        encoded = text.encode("utf-8")
        return b"X" + len(encoded).to_bytes(4, "little") + encoded

    written = path.read_bytes()
    for before, after in (("<", ">"), (little.decode("latin1"), little[::-1].decode("latin1"))):
        assert written.count(pickled(before)) == 1
        written = written.replace(pickled(before), pickled(after))
    path.write_bytes(written)
    assert unpickle(path)[0] == {"x": 1.5}


@ZIP_OR_LEGACY
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (argparse.Namespace(lr=1), "argparse.Namespace"),
        (np.zeros(3), "_reconstruct"),
        (np.array([1, "a"], object), "_reconstruct"),
        (np.zeros(1, [("a", "f8")])[0], "numpy.dtype"),
        (np.str_("text"), "numpy.dtype"),
        (np.datetime64("2026-11-22"), "numpy.dtype"),
        (collections.deque([1]), "collections.deque"),
        (Path("/etc"), "pathlib"),
    ],
)
def test_other_objects_are_refused_by_name(
    save: Callable, value: object, name: str, zipped: bool
) -> None:
    path = save(
        {"state_dict": {"a": torch.zeros(1)}, "extra": value},
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(CheckpointError, match="refused") as error:
        unpickle(path)
    assert name in str(error.value)
    assert str(path) in str(error.value)


def test_torchscript_is_named(tmp_path: Path) -> None:
    class Twice(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    path = tmp_path / "script.pt"
    torch.jit.trace(Twice(), torch.zeros(1)).save(str(path))
    with pytest.raises(CheckpointError, match=r"script\.pt: a TorchScript archive"):
        unpickle(path)


@pytest.mark.parametrize(
    ("content", "needle"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>quota exceeded</html>", "web page"),
        (b"", "not a readable checkpoint"),
        (b"\x00" * 100, "not a readable checkpoint"),
        (b"just text", "not a readable checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, content: bytes, needle: str) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=needle):
        unpickle(path)


@ZIP_OR_LEGACY
@pytest.mark.parametrize("keep", [1, 50, 0.5, 0.9])
def test_truncated_files_are_refused(save: Callable, keep: float, zipped: bool) -> None:
    path = save({"a": torch.arange(1000)}, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match=r"weights\.pth"):
        unpickle(path)


@ZIP_OR_LEGACY
def test_damage_anywhere_ends_in_a_clear_error(save: Callable, zipped: bool) -> None:
    path = save(
        {"state_dict": {"a": torch.arange(4.0)}, "mean_iu": np.float64(0.5)},
        _use_new_zipfile_serialization=zipped,
    )
    content = path.read_bytes()
    random = np.random.default_rng(0)
    refused = []
    for _ in range(300):
        damaged = bytearray(content)
        for place in random.integers(len(damaged), size=3):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        try:
            unpickle(path)  # damage in a number goes unnoticed
        except CheckpointError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert all(str(path) in message for message in refused)

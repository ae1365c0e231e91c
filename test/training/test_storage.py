# SPDX-License-Identifier: Apache-2.0
"""Run files are written whole or not at all, and read back without running anything in them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from anomaly_seg_ros.errors import CheckpointError, OutputError
from training.engine import storage
from training.engine.run_log import save_picture


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("x")])
def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    path = tmp_path / "last.pt"
    storage.save_atomically({"step": 1}, path)

    def half(state: dict, file: Any) -> None:
        file.write(b"half of it")
        raise error

    monkeypatch.setattr(storage.torch, "save", half)
    with pytest.raises(OutputError, match=r"last\.pt"):
        storage.save_atomically({"step": 2}, path)
    assert storage.load_checkpoint(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_in_a_missing_folder(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "last.pt"
    with pytest.raises(OutputError, match=r"absent/last\.pt: cannot be written: .*No such file"):
        storage.save_atomically({"step": 1}, path)


def test_a_file_where_a_folder_is(tmp_path: Path) -> None:
    (tmp_path / "x.bin").mkdir()
    with pytest.raises(OutputError, match=r"x\.bin"):
        storage.write_atomically(tmp_path / "x.bin", lambda file: file.write(b"x"))
    assert [path.name for path in tmp_path.iterdir()] == ["x.bin"]


def test_bytes_of_nested_tensors() -> None:
    nested = {"a": [torch.zeros(3), (torch.zeros(2, dtype=torch.uint8), "text")], "b": 1}
    assert storage.tensor_bytes(nested) == 14


class Harmful:
    """Code that runs when it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("harm",)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "last.pt"
    torch.save({"step": Harmful()}, path)
    with pytest.raises(CheckpointError, match=r"last\.pt: not a readable checkpoint"):
        storage.load_checkpoint(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.pt: no such checkpoint"):
        storage.load_checkpoint(tmp_path / "none.pt")


def test_written_in_rgb(tmp_path: Path) -> None:
    picture = np.full((4, 5, 3), (255, 20, 147), np.uint8)
    save_picture(tmp_path / "x.png", picture)
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
    read = cv2.imread(str(tmp_path / "x.png"))[..., ::-1]
    np.testing.assert_array_equal(read, picture)

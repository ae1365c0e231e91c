# SPDX-License-Identifier: Apache-2.0
"""The files are those of road-anomaly-benchmark, and wrong ones are refused by name."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from anomaly_seg_ros.errors import DatasetError, ImageError, OutputError, ParameterError
from anomaly_seg_ros.evaluation.dumps import (
    check_kind,
    dump_path,
    find_dump,
    read_dump,
    write_dump,
)

SCORE = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)


def test_npy_keeps_every_bit(tmp_path: Path) -> None:
    path = dump_path(tmp_path, "npy", "erfnet", "msp", "val", "f1")
    write_dump(path, SCORE)
    assert path == tmp_path / "erfnet-msp" / "val" / "f1.npy"
    assert np.load(path).dtype == np.float32
    assert np.array_equal(read_dump(path, (5, 7)), SCORE)
    assert [file.name for file in path.parent.iterdir()] == ["f1.npy"]


def test_hdf5_has_the_benchmarks_layout(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = dump_path(tmp_path, "hdf5", "m", "msp", "AnomalyTrack-all", "validation0000")
    write_dump(path, SCORE)
    assert path == tmp_path / "m-msp" / "AnomalyTrack-all" / "validation0000.hdf5"
    with h5py.File(path, "r") as file:
        assert list(file) == ["value"]
        value = file["value"]
        assert (value.dtype, value.compression, value.compression_opts) == (
            np.float16,
            "gzip",
            9,
        )
        assert np.array_equal(value[:], SCORE.astype(np.float16))
    assert np.array_equal(read_dump(path, (5, 7)), SCORE.astype(np.float16).astype(np.float32))


def test_the_benchmarks_own_files_are_read(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    # Its methods may leave dimensions of one; its evaluator squeezes them.
    with h5py.File(tmp_path / "f1.hdf5", "w") as file:
        file.create_dataset("value", data=SCORE[None].astype(np.float16), compression=9)
    path = find_dump(tmp_path, "val", "f1")
    assert np.array_equal(read_dump(path, (5, 7)), SCORE.astype(np.float16))


def test_a_data_sets_own_folder_comes_first(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "val"):
        write_dump(folder / "f1.npy", SCORE)
    assert find_dump(tmp_path, "val", "f1") == tmp_path / "val" / "f1.npy"
    assert find_dump(tmp_path, "test", "f1") == tmp_path / "f1.npy"
    with pytest.raises(DatasetError, match="no score for frame 'f2'"):
        find_dump(tmp_path, "val", "f2")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (SCORE.astype(np.float64), "float16 or float32 scores, got float64"),
        (SCORE[:4], r"scores are \(4, 7\), the image is \(5, 7\)"),
        (np.array([{}], object), "cannot read"),
    ],
)
def test_wrong_arrays(tmp_path: Path, array: np.ndarray, message: str) -> None:
    path = tmp_path / "f1.npy"
    np.save(path, array, allow_pickle=True)
    with pytest.raises(ImageError, match=rf"f1\.npy.*{message}"):
        read_dump(path, (5, 7))


def test_damaged_files(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    for name in ("f1.npy", "f1.hdf5"):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(ImageError, match=name):
            read_dump(tmp_path / name, (5, 7))


def test_half_precision_has_an_end(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    path = tmp_path / "f1.hdf5"
    with pytest.raises(OutputError, match=r"f1\.hdf5: scores beyond float16"):
        write_dump(path, SCORE * 1e6)
    assert not list(tmp_path.iterdir())


def test_without_h5py_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "f1.hdf5").touch()
    with pytest.raises(ParameterError, match="pip install h5py"):
        read_dump(tmp_path / "f1.hdf5", (5, 7))
    with pytest.raises(ParameterError, match="pip install h5py"):
        check_kind("hdf5")
    assert check_kind("npy") == "npy"
    with pytest.raises(ParameterError, match="expected one of npy, hdf5"):
        check_kind("tiff")

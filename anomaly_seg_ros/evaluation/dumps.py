# SPDX-License-Identifier: Apache-2.0
"""Anomaly scores in files, one per image: to evaluate others' scores, and to submit ours.

``npy``: one (H, W) array of float16 or float32. ``hdf5``: the file that SegmentMeIfYouCan's
road-anomaly-benchmark writes and reads: one dataset ``value`` of float16, gzip level 9. It looks
for ``outputs/anomaly_p/METHOD/DATASET/FRAME.hdf5``; :func:`dump_path` makes such paths.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np

from anomaly_seg_ros.errors import DatasetError, ImageError, OutputError, ParameterError
from anomaly_seg_ros.io.array_files import DAMAGED, read_npy
from anomaly_seg_ros.io.atomic import replacing

KINDS = {"npy": ".npy", "hdf5": ".hdf5"}
_HDF5_SUFFIXES = (".hdf5", ".h5")
_SUFFIXES = (".npy", *_HDF5_SUFFIXES)
_KEY = "value"
_GZIP_LEVEL = 9


def dump_path(folder: Path, kind: str, model: str, score: str, data: str, frame: str) -> Path:
    """``FOLDER/MODEL-SCORE/DATA/FRAME.SUFFIX``."""
    return folder / f"{model}-{score}" / data / f"{frame}{KINDS[kind]}"


def find_dump(folder: Path, data: str, frame: str) -> Path:
    """The file with a frame's score, in ``FOLDER/DATA`` or in ``FOLDER``.

    Raises:
        DatasetError: There is none.
    """
    for place in (folder / data, folder):
        for suffix in _SUFFIXES:
            path = place / f"{frame}{suffix}"
            if path.is_file():
                return path
    raise DatasetError(
        f"{folder}: no score for frame {frame!r} (looked for {frame}{{{','.join(_SUFFIXES)}}} "
        f"there and in {data}/)"
    )


def read_dump(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Reads one image's score.

    Args:
        path: A file of one of the two kinds.
        shape: (H, W) of the image.

    Returns:
        (H, W) float32; float16 fits into it without loss.

    Raises:
        ImageError: Unreadable, of another shape or of another type.
        ParameterError: An HDF5 file, and h5py is not installed.
    """
    try:
        if path.suffix in _HDF5_SUFFIXES:
            array = _read_hdf5(path, most=2 * shape[0] * shape[1])
        else:
            array = read_npy(path)
    except DAMAGED as error:
        raise ImageError(f"{path}: cannot read scores ({error})") from error
    if array.dtype not in (np.float16, np.float32):
        raise ImageError(f"{path}: expected float16 or float32 scores, got {array.dtype}")
    found = array.shape
    array = array.squeeze() if array.ndim > 2 else array
    if array.shape != shape:
        raise ImageError(f"{path}: scores are {found}, the image is {shape}")
    return array.astype(np.float32)


def _read_hdf5(path: Path, most: int) -> np.ndarray:
    """The dataset ``value``, which must lie in the file itself and have ``most`` values at most.

    HDF5 can take data out of any other file: by a link, as external storage, or as a view.
    """
    h5py = _h5py(path)
    with h5py.File(path, "r") as file:
        if not isinstance(file.get(_KEY, getlink=True), h5py.HardLink):
            raise ValueError(f"its '{_KEY}' is missing or a link")
        dataset = file[_KEY]
        if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
            raise ValueError(f"its '{_KEY}' is no dataset of its own")
        if dataset.size is None or dataset.size > most:
            raise ValueError(f"its '{_KEY}' has the shape {dataset.shape}")
        return np.asarray(dataset)


def write_dump(path: Path, score: np.ndarray) -> None:
    """Writes one image's score; the suffix of the path says as what.

    Args:
        path: Folders above it are made.
        score: (H, W) float32; written as float16 to HDF5.

    Raises:
        OutputError: It cannot be written, or does not fit into float16; nothing half-written is
            left.
        ParameterError: HDF5, and h5py is not installed.
    """
    half = _to_half(score, path) if path.suffix in _HDF5_SUFFIXES else None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            if half is None:
                with partial.open("wb") as file:
                    np.save(file, score, allow_pickle=False)
            else:
                with _h5py(path).File(partial, "w") as file:
                    file.create_dataset(
                        _KEY, data=half, compression="gzip", compression_opts=_GZIP_LEVEL
                    )
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def check_kind(kind: str) -> str:
    """Returns a kind of dump, or raises ParameterError naming what is missing."""
    if kind not in KINDS:
        raise ParameterError(f"dump {kind!r}: expected one of {', '.join(KINDS)}")
    if kind == "hdf5":
        _h5py(Path("--dump hdf5"))
    return kind


def _to_half(score: np.ndarray, path: Path) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = score.astype(np.float16)
    if not np.isfinite(half).all():
        raise OutputError(f"cannot write {path}: scores beyond float16's 65504; use npy")
    return half


def _h5py(path: Path) -> ModuleType:
    """The module h5py, which only HDF5 files need."""
    try:
        import h5py
    except ImportError as error:
        raise ParameterError(f"{path}: HDF5 needs the package h5py: pip install h5py") from error
    return h5py

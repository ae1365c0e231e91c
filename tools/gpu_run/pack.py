# SPDX-License-Identifier: Apache-2.0
"""Packs the files that a configuration trains on into tar files, to be carried elsewhere.

    python -m tools.gpu_run.pack --data ../shared/data --out packed

Frames, labels and objects keep their places below the data folder, so the configuration stays as
it is: unpack all parts into one folder and train with ``--data FOLDER``.
"""

from __future__ import annotations

import argparse
import sys
import tarfile
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path

import cv2
from tqdm import tqdm

from anomaly_seg_ros.datasets import Sample
from anomaly_seg_ros.errors import DatasetError, OutputError, ParameterError
from anomaly_seg_ros.io.images import IMAGE_SUFFIXES, read_image, read_label, read_size
from anomaly_seg_ros.system.tool import run_tool
from training.data.block import source_folder
from training.data.corpora import TrainingData
from training.engine.config import CONFIGS, load_config
from training.engine.entry import data_folder
from training.engine.storage import make_folder

PART_MIB = 55.0
_DEFAULTS = CONFIGS / "fine_tune.yaml"
# Beside the frames, adapters read tables and lists of this size at most.
_TABLE_BYTES = 2**20
_JPEG_QUALITY = 95


def samples_of(data: TrainingData) -> list[Sample]:
    """All samples of the named splits: what is held out depends on their order."""
    return [
        sample
        for section, name, corpus in data.block.corpora()
        if corpus.weight > 0
        for dataset in data.datasets(f"data.{section}.{name}", corpus)
        for sample in dataset
    ]


def files_of(data: TrainingData) -> list[Path]:
    """All files of a run, each once: frames, labels, adapters' tables, and objects.

    Raises:
        DatasetError: A folder is missing.
        ParameterError: A root is not below the data folder.
    """
    found: dict[Path, None] = {}
    for sample in samples_of(data):
        for path in (sample.image_path, sample.labels_path, sample.anomaly_mask_path):
            if path is not None:
                found[path] = None
    for _, _, corpus in data.block.corpora():
        root = source_folder(corpus.root, data.folder)
        for path in sorted(root.rglob("*")):
            is_table = path.suffix.lower() not in IMAGE_SUFFIXES and path.is_file()
            if is_table and path.stat().st_size <= _TABLE_BYTES:
                found[path] = None
    for objects in data.block.objects.values():
        root = source_folder(objects.root, data.folder)
        if not root.is_dir():
            raise DatasetError(f"{root}: no such folder")
        found.update(dict.fromkeys(path for path in sorted(root.rglob("*")) if path.is_file()))
    for path in found:
        if not path.is_relative_to(data.folder):
            raise ParameterError(f"{path}: is not below the data folder {data.folder}")
    return list(found)


def shrunk(path: Path, height: int, is_label: bool) -> bytes:
    """Content of an image file, no higher than ``height``; 0 leaves it as it is.

    Labels keep stored values: nearest pixels.
    """
    rows, columns = read_size(path)
    if not height or rows <= height:
        return path.read_bytes()
    size = (max(1, round(columns * height / rows)), height)
    if is_label:
        array = cv2.resize(read_label(path), size, interpolation=cv2.INTER_NEAREST)
    else:
        array = cv2.resize(read_image(path, upright=False), size, interpolation=cv2.INTER_AREA)
        array = array[..., ::-1]
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    return cv2.imencode(path.suffix, array, options)[1].tobytes()


def pack(data: TrainingData, out: Path, part_mib: float = PART_MIB, height: int = 0) -> list[Path]:
    """Writes ``part_01.tar`` and so on.

    Args:
        data: Frames and objects of the run.
        out: Folder without parts.
        part_mib: Most MiB of a part.
        height: Frames that are higher are shrunk to so many rows; 0 leaves them. Objects stay.

    Returns:
        The parts.

    Raises:
        OutputError: The folder has parts already, or cannot be made.
        ParameterError: A file is larger than a part, or see :func:`files_of`.
    """
    make_folder(out)
    if any(out.glob("part_*.tar")):
        raise OutputError(f"{out}: has parts already; name another folder")
    limit = int(part_mib * 2**20)
    samples = samples_of(data)
    labels = {path for s in samples for path in (s.labels_path, s.anomaly_mask_path)}
    frames = {sample.image_path for sample in samples}
    parts: list[Path] = []
    part: tarfile.TarFile | None = None
    try:
        for path in tqdm(files_of(data), "packing", unit="file"):
            is_label = path in labels
            small = is_label or path in frames
            content = shrunk(path, height, is_label) if small else path.read_bytes()
            # Header, padding, and the two empty blocks at the end, rounded up as tar does.
            needed = len(content) + 2 * tarfile.BLOCKSIZE + tarfile.RECORDSIZE
            if needed > limit:
                raise ParameterError(f"{path}: {needed / 2**20:.1f} MiB do not fit into a part")
            if part is None or part.offset + needed > limit:
                if part is not None:
                    part.close()
                parts.append(out / f"part_{len(parts) + 1:02d}.tar")
                # The older format has no further headers.
                part = tarfile.open(parts[-1], "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115
            entry = tarfile.TarInfo(path.relative_to(data.folder).as_posix())
            entry.size = len(content)
            part.addfile(entry, BytesIO(content))
    finally:
        if part is not None:
            part.close()
    return parts


def unpack(parts: Iterable[Path], folder: Path) -> None:
    """Unpacks parts into a folder.

    Raises:
        DatasetError: There is none, or one is damaged.
    """
    parts = sorted(parts)
    if not parts:
        raise DatasetError("no part_*.tar to unpack")
    for path in parts:
        _unpack_part(path, folder)


def _unpack_part(path: Path, folder: Path) -> None:
    try:
        with tarfile.open(path) as part:
            part.extractall(folder, filter="data")
    except (tarfile.TarError, OSError) as error:
        raise DatasetError(f"{path}: cannot be unpacked ({error})") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=data_folder())
    parser.add_argument(
        "--config",
        type=Path,
        default=CONFIGS / "deeplab_lite0_open_set.yaml",
        help="default: %(default)s",
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part-mib", type=float, default=PART_MIB)
    parser.add_argument("--height", type=int, default=0, help="rows of the highest frame; 0 = all")
    parsed = parser.parse_args(arguments)

    def body() -> None:
        config = load_config(_DEFAULTS, parsed.config)
        data = TrainingData(config["data"], parsed.data)
        for path in pack(data, parsed.out, parsed.part_mib, parsed.height):
            print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")

    return run_tool("gpu_run.pack", body)


if __name__ == "__main__":
    sys.exit(main())

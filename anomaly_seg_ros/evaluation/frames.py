# SPDX-License-Identifier: Apache-2.0
"""Where frames come from: a data set, a bag, or several of them as one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from anomaly_seg_ros.bags.evaluation_input import (
    BagOptions,
    described,
    label_classes,
    notes_on,
    open_bag,
)
from anomaly_seg_ros.bags.reader import Frame
from anomaly_seg_ros.bags.recording import is_bag_folder
from anomaly_seg_ros.datasets import CameraIntrinsics, Dataset, LoadedSample, open_dataset
from anomaly_seg_ros.datasets.label_scan import check_mask_convention
from anomaly_seg_ros.errors import BagError, DatasetError
from anomaly_seg_ros.evaluation.plan import AUTO, BAG, DataSpec
from anomaly_seg_ros.io.bit_depth import BitDepth
from anomaly_seg_ros.taxonomy import load_taxonomy

_BAG_DEFAULTS = BagOptions()
_SMALL_OBJECTS = re.compile(r"obstacle|lost.?and.?found", re.IGNORECASE)
_BAG_SUFFIXES = (".mcap", ".db3")
# What SQLite keeps there while it writes, or leaves behind after a crash.
_BESIDE_A_DATABASE = ("-wal", "-shm", "-journal")


class Frames(ABC):
    """The frames of a data set or bag in a fixed order.

    Attributes:
        adapter: Name of the data set's adapter, or ``bag``.
        label: Name in tables.
        classes: Names of the labels' classes, in trainId order.
        has_masks: At least one frame has an anomaly mask.
        has_labels: At least one frame has class labels.
        own_sizes: The data set's ``component_sizes``; None for bags and plain folders.
        configuration: JSON-like; identifies these frames.
        input: JSON-like; what was found in them, for ``benchmark.json``.
        notes: What a reader of the figures must know about them.
    """

    adapter: str
    label: str
    classes: tuple[str, ...]
    has_masks: bool
    has_labels: bool
    configuration: dict[str, Any]
    input: dict[str, Any] | None = None
    notes: Sequence[str] = ()
    own_sizes: str | None = None

    @property
    def component_sizes(self) -> str:
        """Key of ``COMPONENT_SIZES``: the smallest components that count.

        Bags and plain folders have only their name to say whether they show small objects.
        """
        by_name = "obstacle_track" if _SMALL_OBJECTS.search(self.label) else "anomaly_track"
        return self.own_sizes or by_name

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def load(self, wanted: Collection[int]) -> Iterator[tuple[int, LoadedSample]]:
        """Reads the frames with these indices in rising order, one at a time.

        Raises:
            AnomalySegError: A file or message cannot be read.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """A digest that changes when the files change."""


class DatasetFrames(Frames):
    """The frames of a data set.

    Args:
        dataset: The data set.
        label: Name in tables.
        options: Options that it was opened with.
        limit: Use only this many frames, from the start.
    """

    def __init__(
        self, dataset: Dataset, label: str, options: dict[str, Any], limit: int | None
    ) -> None:
        self.dataset = dataset
        self.adapter, self.label = dataset.name, label
        self.own_sizes = dataset.component_sizes
        self.classes = load_taxonomy(dataset.taxonomy_name).classes
        self._count = min(len(dataset), limit or len(dataset))
        samples = list(islice(dataset, self._count))
        self.has_masks = any(sample.anomaly_mask_path for sample in samples)
        self.has_labels = any(sample.labels_path for sample in samples)
        names = "\n".join(sample.name for sample in samples)
        self.configuration = {
            "adapter": dataset.name,
            "folder": str(dataset.root.resolve()),
            "options": options,
            "frames": self._count,
            "names": hashlib.sha256(names.encode()).hexdigest()[:16],
        }

    def __len__(self) -> int:
        return self._count

    def load(self, wanted: Collection[int]) -> Iterator[tuple[int, LoadedSample]]:
        """See :class:`Frames`."""
        for index in sorted(wanted):
            yield index, self.dataset[index].load()

    def fingerprint(self) -> str:
        """See :class:`Frames`."""
        samples = list(islice(self.dataset, self._count))
        files = (
            path
            for sample in samples
            for path in (
                sample.image_path,
                sample.overlay_path,
                sample.anomaly_mask_path,
                sample.labels_path,
                sample.disparity_path,
            )
        )
        # Cameras and label maps, which the data set has already read from other files.
        digest = hashlib.sha256()
        for sample in samples:
            digest.update(f"{sample.camera} {sample.code}\n".encode())
            for table in (sample.anomaly_mask_table, sample.labels_table):
                digest.update(b"-" if table is None else table.tobytes())
        read = digest.hexdigest()[:16]
        return f"{files_fingerprint(path for path in files if path is not None)} {read}"


class BagFrames(Frames):
    """The frames of a rosbag2.

    Args:
        path: The bag.
        label: Name in tables.
        limit: Use only this many frames, from the start.
        options: How to read it.

    Raises:
        BagError: See :func:`open_bag`.
    """

    adapter = BAG

    def __init__(
        self, path: Path, label: str, limit: int | None, options: BagOptions = _BAG_DEFAULTS
    ) -> None:
        self.path, self.label, self.options = path, label, options
        with open_bag(path, options) as reader:
            self._count = min(len(reader), limit or len(reader))
            found = {slot for slot, match in reader.matches.items() if match.matched}
            self.classes = label_classes(reader) or load_taxonomy().classes
            self.input = described(reader, options)
            self.notes = notes_on(reader, options)
        self.has_masks = "anomaly_mask" in found
        self.has_labels = "labels" in found
        self.configuration = {
            "adapter": BAG,
            "folder": str(path.resolve()),
            "options": {
                field.name: value
                for field in dataclasses.fields(options)
                if (value := getattr(options, field.name)) != field.default
            },
            "frames": self._count,
        }

    def __len__(self) -> int:
        return self._count

    def load(self, wanted: Collection[int]) -> Iterator[tuple[int, LoadedSample]]:
        """See :class:`Frames`."""
        depth = BitDepth(self.options.bit_depth)
        with open_bag(self.path, self.options) as reader:
            reader.num_classes = len(self.classes)
            indices = sorted(set(wanted))
            for index, frame in zip(indices, reader.frames(indices), strict=True):
                yield index, _sample(frame, index, depth)
        for remark in depth.remarks().values():
            tqdm.write(f"{self.path}: {remark} (here: ?bit_depth=)", file=sys.stderr)

    def fingerprint(self) -> str:
        """See :class:`Frames`."""
        # Reading the same files in another way also changes the fingerprint.
        found = hashlib.sha256(json.dumps(self.input, sort_keys=True).encode()).hexdigest()[:16]
        return f"{folder_fingerprint(self.path)} {found}"


class JoinedFrames(Frames):
    """Several data sets or bags as one, such as all bags of a fleet; their pixels are pooled.

    A frame is named after its part and its name there.

    Args:
        parts: Opened without a limit.
        label: Name in tables.
        limit: Use only this many frames of all parts together, from the start.

    Raises:
        DatasetError: The parts differ in kind, or two have the same name.
    """

    def __init__(self, parts: list[Frames], label: str, limit: int | None) -> None:
        self._parts, self.label = parts, label
        self.adapter, self.classes = parts[0].adapter, parts[0].classes
        self.own_sizes = parts[0].own_sizes
        for part in parts:
            if (part.adapter, part.classes) != (self.adapter, self.classes):
                raise DatasetError(
                    f"{label}: {parts[0].label} is {self.adapter!r}, {part.label} is "
                    f"{part.adapter!r}, or their classes differ: they cannot be pooled"
                )
        labels = [part.label for part in parts]
        if twice := sorted({name for name in labels if labels.count(name) > 1}):
            raise DatasetError(f"{label}: two parts are called {twice[0]!r}")
        total = sum(map(len, parts))
        self._count = min(total, limit or total)
        self.has_masks = any(part.has_masks for part in parts)
        self.has_labels = any(part.has_labels for part in parts)
        self.input = {part.label: part.input for part in parts if part.input is not None} or None
        self.notes = [f"{part.label}: {note}" for part in parts for note in part.notes]
        self.configuration = {
            "adapter": self.adapter,
            "frames": self._count,
            "parts": [part.configuration for part in parts],
        }

    def __len__(self) -> int:
        return self._count

    def load(self, wanted: Collection[int]) -> Iterator[tuple[int, LoadedSample]]:
        """See :class:`Frames`."""
        first = 0
        for part in self._parts:
            here = {index - first for index in wanted if first <= index < first + len(part)}
            if here:
                for index, sample in part.load(here):
                    yield first + index, replace(sample, name=f"{part.label}_{sample.name}")
            first += len(part)

    def fingerprint(self) -> str:
        """See :class:`Frames`."""
        return " ".join(part.fingerprint() for part in self._parts)


def open_frames(spec: DataSpec, limit: int | None) -> Frames:
    """Opens a data set or a bag, or pools all that match a pattern with ``*``.

    Raises:
        DatasetError, BagError, ParameterError: Missing, of another shape, or without any ground
            truth.
    """
    if "*" in spec.folder.name and not spec.folder.exists():
        folders = sorted(
            path
            for path in spec.folder.parent.glob(spec.folder.name)
            if not path.name.endswith(_BESIDE_A_DATABASE)
        )
        if not folders:
            raise DatasetError(f"{spec.folder}: nothing fits this pattern")
        parts = [
            _open(replace(spec, folder=path, label=_part_name(path)), None) for path in folders
        ]
        frames: Frames = JoinedFrames(parts, spec.label, limit)
    else:
        frames = _open(spec, limit)
        parts = [frames]
    sets = [part.dataset for part in parts if isinstance(part, DatasetFrames)]
    check_mask_convention(chain.from_iterable(sets), spec.folder)
    if not frames.has_masks and not frames.has_labels:
        raise DatasetError(
            f"{spec.folder}: no anomaly mask and no class labels (read as {frames.adapter!r}): "
            "there is nothing to evaluate on"
        )
    return frames


def _open(spec: DataSpec, limit: int | None) -> Frames:
    if spec.adapter == BAG or (spec.adapter == AUTO and _is_bag(spec.folder)):
        return BagFrames(spec.folder, spec.label, limit, BagOptions.parse(spec.options))
    dataset = open_dataset(spec.adapter, spec.folder, **spec.options)
    return DatasetFrames(dataset, spec.label, spec.options, limit)


def _part_name(path: Path) -> str:
    """Name of a bag, without a file's suffix; a folder's name may contain dots."""
    return path.stem if path.suffix in _BAG_SUFFIXES else path.name


def _is_bag(path: Path) -> bool:
    # Data sets are folders.
    return path.is_file() or path.suffix in _BAG_SUFFIXES or is_bag_folder(path)


def _sample(frame: Frame, index: int, depth: BitDepth) -> LoadedSample:
    """Converts a frame of a bag; one without a name gets its index and stamp."""
    info, camera = frame.camera_info, None
    if info is not None:
        k = info.k
        camera = CameraIntrinsics(
            float(k[0]), float(k[4]), float(k[2]), float(k[5]), frame.baseline_m
        )
    name = frame.name or f"{index:06d}_{frame.stamp_ns}"
    image = frame.to_rgb(depth)
    for what, array in (
        ("anomaly mask", frame.anomaly_mask),
        ("class labels", frame.labels),
        ("disparity", frame.disparity),
    ):
        if array is not None and array.shape != image.shape[:2]:
            raise BagError(f"frame {name}: its {what} are {array.shape}, its image {image.shape}")
    return LoadedSample(
        name, image, frame.anomaly_mask, frame.labels, frame.disparity, camera, frame.fold
    )


def files_fingerprint(paths: Iterable[Path]) -> str:
    """Digest of names, sizes and modification times; the contents are not read."""
    digest = hashlib.sha256()
    for path in paths:
        # Resolved: the same wherever the tool is started from.
        digest.update(f"{path.resolve()} {_file_state(path)}\n".encode())
    return digest.hexdigest()[:16]


def folder_fingerprint(folder: Path) -> str:
    """Returns :func:`files_fingerprint` of all files below a folder, or of a single file."""
    below = (path for path in folder.rglob("*") if path.is_file())
    return files_fingerprint(sorted(below) if folder.is_dir() else [folder])


def _file_state(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"

# SPDX-License-Identifier: Apache-2.0
"""Base of all data sets: samples that name their files and read them on demand."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from anomaly_seg_ros.datasets.label_codes import LabelCode
from anomaly_seg_ros.errors import DatasetError, ImageError, ParameterError
from anomaly_seg_ros.io import safe_yaml_json
from anomaly_seg_ros.io.array_files import DAMAGED, read_npz
from anomaly_seg_ros.io.images import (
    IMAGE_SUFFIXES,
    check_same_size,
    read_annotated_image,
    read_disparity,
    read_image,
    read_label,
)
from anomaly_seg_ros.io.safe_yaml_json import short_repr
from anomaly_seg_ros.labels import (
    IGNORE_INDEX,
    INVALID_ID,
    MASK_255_ANOMALY,
    MASK_255_IGNORE,
    anomalies_from_255,
    check_anomaly_mask,
    check_labels,
)
from anomaly_seg_ros.taxonomy import load_taxonomy

# Cityscapes' labelIds are often mistaken for its trainIds.
_CITYSCAPES_CLASSES, _LARGEST_LABEL_ID = 19, 33
OVERLAY_KEY = "rgb"
_WIDEST_INTEGER = 8  # bytes


@dataclass(frozen=True)
class CameraIntrinsics:
    """Intrinsics of a rectified pinhole camera, in pixels of the stored image.

    Attributes:
        fx: Horizontal focal length.
        fy: Vertical focal length.
        cx: Column of the principal point.
        cy: Row of the principal point.
        baseline_m: Distance to the right camera of the stereo pair in metres; None if unknown.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    baseline_m: float | None = None


@dataclass(frozen=True)
class LoadedSample:
    """The arrays of one sample, all of the image's height and width.

    Attributes:
        name: The sample's name, unique in its data set.
        image: (H, W, 3) uint8 RGB.
        anomaly_mask: (H, W) uint8: 0 in-distribution, 1 anomaly, 255 ignore.
        labels: (H, W) uint8 trainIds, 255 = ignore.
        disparity: (H, W) uint16, 256 * pixels, 0 = not measured.
        camera: Intrinsics, if known.
        fold: As in :class:`Sample`.
    """

    name: str
    image: np.ndarray = field(repr=False)
    anomaly_mask: np.ndarray | None = field(default=None, repr=False)
    labels: np.ndarray | None = field(default=None, repr=False)
    disparity: np.ndarray | None = field(default=None, repr=False)
    camera: CameraIntrinsics | None = None
    fold: str = ""


@dataclass(frozen=True)
class Sample:
    """One image of a data set and its ground truth; files are read on demand.

    Attributes:
        name: The sample's name, unique in its data set.
        image_path: The colour image.
        anomaly_mask_path: File with the anomaly mask, if there is one.
        anomaly_mask_table: (256,) uint8 map from stored value to 0 / 1 / 255, or 254 for values
            that are not defined; None if the file stores 0 / 1 / 255 itself.
        mask_255: Meaning of 255 in a mask without a table, "ignore" or "anomaly"; None if not
            stated, which reads as "ignore", see :func:`.label_scan.check_mask_convention`.
        labels_path: File with the class labels, if there is one.
        labels_table: (256,) uint8 map from stored value to trainId, or 254 for values that are
            not defined; None if the file stores trainIds.
        num_classes: Number of trainIds; None, outside a data set, leaves them unchecked.
        disparity_path: File with the disparity, if there is one.
        disparity_offset: Difference of the stored values from 256 * pixels.
        camera: Intrinsics, if known.
        fold: Part of the test set that the sample belongs to, if thresholds are found on one part
            and measured on another (StreetHazards: "t5", "t6"); otherwise "".
        overlay_path: Array file to add to the image, see :func:`add_overlay`.
        code: How the mask and label files encode their values; None if they store the values
            themselves.
    """

    name: str
    image_path: Path
    anomaly_mask_path: Path | None = None
    anomaly_mask_table: np.ndarray | None = field(default=None, repr=False, compare=False)
    mask_255: str | None = MASK_255_IGNORE
    labels_path: Path | None = None
    labels_table: np.ndarray | None = field(default=None, repr=False, compare=False)
    num_classes: int | None = None
    disparity_path: Path | None = None
    disparity_offset: int = 0
    camera: CameraIntrinsics | None = None
    fold: str = ""
    overlay_path: Path | None = None
    code: LabelCode | None = None

    def read_image(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """(H, W, 3) uint8 RGB.

        Args:
            size: (height, width) of the ground truth, whose orientation the image then has. None
                turns it upright.
        """
        if size is None:
            image = read_image(self.image_path)
        else:
            image = read_annotated_image(self.image_path, size)
        return image if self.overlay_path is None else add_overlay(image, self.overlay_path)

    def read_anomaly_mask(self) -> np.ndarray | None:
        """(H, W) uint8: 0 in-distribution, 1 anomaly, 255 ignore; None without a file.

        Raises:
            ImageError: The file is unreadable, or stores a value that is not defined.
        """
        if self.anomaly_mask_path is None:
            return None
        stored = self._read_stored(self.anomaly_mask_path)
        if self.anomaly_mask_table is not None:
            return _mapped(stored, self.anomaly_mask_table, self.anomaly_mask_path)
        where = str(self.anomaly_mask_path)
        if self.mask_255 == MASK_255_ANOMALY:
            return anomalies_from_255(stored, where, ImageError)
        hint = "if these are class labels, use the option labels=classes"
        check_anomaly_mask(stored, where, ImageError, hint)
        return stored

    def read_labels(self) -> np.ndarray | None:
        """(H, W) uint8 trainIds, 255 = ignore; None without a file.

        Raises:
            ImageError: The file is unreadable, or stores a value that is not defined.
        """
        if self.labels_path is None:
            return None
        stored = self._read_stored(self.labels_path)
        if self.labels_table is not None:
            return _mapped(stored, self.labels_table, self.labels_path)
        if self.num_classes is not None:
            largest = stored.max(initial=0, where=stored != IGNORE_INDEX)
            hint = "if other values are meant, say what they mean in a label_map"
            if self.num_classes == _CITYSCAPES_CLASSES and largest <= _LARGEST_LABEL_ID:
                hint = (
                    "these look like Cityscapes labelIds; use the option labels=label_ids of the "
                    "data set 'folder'"
                )
            check_labels(stored, self.num_classes, str(self.labels_path), ImageError, hint)
        return stored

    def read_disparity(self) -> np.ndarray | None:
        """(H, W) uint16, 256 * pixels, 0 = not measured; None without a file."""
        if self.disparity_path is None:
            return None
        stored = read_disparity(self.disparity_path)
        if self.disparity_offset:
            stored -= np.minimum(stored, np.uint16(self.disparity_offset))
        return stored

    def load(self) -> LoadedSample:
        """Reads all files of the sample.

        Raises:
            ImageError: A file is missing, damaged, or its size differs from the image's.
        """
        mask, labels, disparity = (
            self.read_anomaly_mask(),
            self.read_labels(),
            self.read_disparity(),
        )
        truths = [
            (array, path)
            for array, path in (
                (mask, self.anomaly_mask_path),
                (labels, self.labels_path),
                (disparity, self.disparity_path),
            )
            if array is not None and path is not None
        ]
        image = self.read_image(truths[0][0].shape if truths else None)
        for array, path in truths:
            check_same_size(image, array, self.image_path, path)
        return LoadedSample(self.name, image, mask, labels, disparity, self.camera, self.fold)

    def _read_stored(self, path: Path) -> np.ndarray:
        """(H, W) uint8 as stored, before any table."""
        return read_label(path) if self.code is None else self.code.read(path)


def _mapped(stored: np.ndarray, table: np.ndarray, path: Path) -> np.ndarray:
    """Looks up stored values; raises ImageError for one that the table does not define."""
    found = cv2.LUT(stored, table)  # six times faster than NumPy's indexing
    invalid = found == INVALID_ID
    if invalid.any():
        raise ImageError(
            f"{path}: holds the value {stored[invalid][0]}, which is no label of this data set"
        )
    return found


def add_overlay(image: np.ndarray, path: Path) -> np.ndarray:
    """Adds an overlay file: ``clip(image + overlay, 0, 255)``.

    Fishyscapes Static may not redistribute Cityscapes, so it ships what its objects change
    (``fishyscapes_tfds.py`` of hermannsblum's bdl-benchmark).

    Args:
        image: (H, W, 3) uint8 RGB.
        path: npz file whose array "rgb" is (H, W, 3) of any integer type.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImageError: The file is missing or damaged, or its array has another shape or type.
    """
    try:
        overlay = read_npz(path, largest=_WIDEST_INTEGER * image.size)[OVERLAY_KEY]
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except DAMAGED as error:
        raise ImageError(f"{path}: no npz file with an array '{OVERLAY_KEY}' ({error})") from error
    if overlay.shape != image.shape or overlay.dtype.kind not in "iu":
        raise ImageError(
            f"{path}: expected whole numbers of shape {image.shape}, got {overlay.dtype} of "
            f"shape {overlay.shape}"
        )
    return np.clip(image.astype(np.int32) + overlay.astype(np.int32), 0, 255).astype(np.uint8)


class Dataset(ABC):
    """A sequence of samples in a fixed order.

    Attributes:
        name: Key in the registry ``DATASETS``.
        tree: The expected folder tree, for error messages.
        taxonomy: The meaning of the labels in one sentence.
        taxonomy_name: The taxonomy whose trainIds the labels hold: a file stem of
            config/taxonomies, or a path.
        classes: The names of its classes.
        frame_rate: Images a second if the data set is a video; None otherwise.
        component_sizes: Key of ``COMPONENT_SIZES`` (metrics/components.py): the smallest
            components that count in its component figures; None if it may hold anything.
    """

    name: str
    tree: str
    taxonomy: str
    taxonomy_name: str = "cityscapes"
    frame_rate: float | None = None
    component_sizes: str | None = "anomaly_track"

    def __init__(self, root: Path, samples: Iterable[Sample]) -> None:
        self.root = root
        self.classes = load_taxonomy(self.taxonomy_name).classes
        count = len(self.classes)
        self._samples = tuple(replace(sample, num_classes=count) for sample in samples)
        if not self._samples:
            raise self.wrong_tree("found no image")
        seen: dict[str, Sample] = {}
        for sample in self._samples:  # names become file names and bag keys: they must differ
            if sample.name in seen:
                raise self.wrong_tree(
                    f"{seen[sample.name].image_path} and {sample.image_path} are both "
                    f"'{sample.name}'"
                )
            seen[sample.name] = sample

    @classmethod
    @abstractmethod
    def matches(cls, root: Path) -> bool:
        """True if a folder looks like this data set."""

    def wrong_tree(self, fault: str) -> DatasetError:
        """Builds an error that names the fault and shows the expected tree."""
        return DatasetError(f"{self.root}: {fault}; data set '{self.name}' expects\n{self.tree}")

    def check_split(self, split: str, available: Iterable[str]) -> str:
        """Returns ``split``, or raises DatasetError naming the available ones."""
        available = sorted(available)
        if split not in available:
            raise self.wrong_tree(f"no split '{split}' (found: {', '.join(available) or 'none'})")
        return split

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._samples)


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder, sorted by name; hidden files are left out."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )


def check_choice(option: str, value: str, allowed: Iterable[str]) -> str:
    """Returns the value of an option, or raises ParameterError naming the allowed ones."""
    allowed = tuple(allowed)
    if value not in allowed:
        raise ParameterError(f"{option}: expected one of {', '.join(allowed)}, got {value}")
    return value


def check_switch(option: str, value: bool) -> bool:
    """Returns a switch, or raises ParameterError for anything but True and False."""
    if not isinstance(value, bool):  # such as the text "no", which would count as true
        raise ParameterError(f"{option}: expected true or false, got {value}")
    return value


def read_json(path: Path) -> dict:
    """Reads a JSON object.

    Raises:
        DatasetError: The file is missing, not JSON, or not an object.
    """
    value = safe_yaml_json.read_json(path, DatasetError)
    if not isinstance(value, dict):
        raise DatasetError(f"{path}: expected a JSON object")
    return value


def number(value: object, key: str, path: Path) -> float:
    """Converts a value of a JSON file to a finite float.

    Raises:
        DatasetError: The value is no finite number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DatasetError(f"{path}: key '{key}' must be a number, got {short_repr(value)}")
    try:
        result = float(value)
    except OverflowError:  # a whole number may have thousands of digits
        result = math.inf
    if not math.isfinite(result):
        raise DatasetError(f"{path}: key '{key}' must be a finite number, got {short_repr(value)}")
    return result

"""What all data sets yield: samples that name their files and read them when asked."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from anomaly_seg_ros.datasets.colour_code import ColourCode
from anomaly_seg_ros.datasets.overlay import add_overlay
from anomaly_seg_ros.errors import DatasetError, ImageError, ParameterError
from anomaly_seg_ros.io import safe_yaml_json
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

# The largest value of Cityscapes' labelIds, which are often taken for trainIds.
_LARGEST_LABEL_ID = 33


@dataclass(frozen=True)
class Camera:
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
        name: Unique in its data set.
        image: (H, W, 3) uint8 RGB.
        anomaly_mask: (H, W) uint8: 0 in-distribution, 1 anomaly, 255 ignore.
        labels: (H, W) uint8 trainIds, 255 = ignore.
        disparity: (H, W) uint16, 256 * pixels, 0 = not measured.
        camera: Intrinsics.
        fold: As in :class:`Sample`.
    """

    name: str
    image: np.ndarray = field(repr=False)
    anomaly_mask: np.ndarray | None = field(default=None, repr=False)
    labels: np.ndarray | None = field(default=None, repr=False)
    disparity: np.ndarray | None = field(default=None, repr=False)
    camera: Camera | None = None
    fold: str = ""


@dataclass(frozen=True)
class Sample:
    """One image of a data set and what is known about it; nothing is read before it is asked for.

    Attributes:
        name: Unique in its data set.
        image_path: The colour image.
        anomaly_mask_path: File with the anomaly mask, if there is one.
        anomaly_mask_table: (256,) uint8 map from stored value to 0 / 1 / 255, 254 where it is
            undefined; None if those are stored.
        mask_255: What 255 means in a mask without a table, "ignore" or "anomaly"; None where
            nobody said: it is read as "ignore", see :mod:`.mask_convention`.
        labels_path: File with the class labels, if there is one.
        labels_table: (256,) uint8 map from stored value to trainId, 254 where it is undefined;
            None if trainIds are stored.
        num_classes: Number of trainIds; None, outside of a data set, leaves them unchecked.
        disparity_path: File with the disparity, if there is one.
        disparity_offset: By how much the stored values are larger than 256 * pixels.
        camera: Intrinsics, if known.
        fold: Part of the test set that the sample belongs to, where thresholds are found on one
            part and measured on another (StreetHazards: "t5", "t6"); "" where there are none.
        overlay_path: Array file that is added to the image, see :mod:`.overlay`.
        colour_code: How colours stand for stored values in the mask and label files; None where
            the values themselves are stored.
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
    camera: Camera | None = None
    fold: str = ""
    overlay_path: Path | None = None
    colour_code: ColourCode | None = None

    def read_image(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """(H, W, 3) uint8 RGB.

        Args:
            size: (height, width) of the ground truth; the image is then read in the orientation
                that this was made for. None turns it upright.
        """
        if size is None:
            image = read_image(self.image_path)
        else:
            image = read_annotated_image(self.image_path, size)
        return image if self.overlay_path is None else add_overlay(image, self.overlay_path)

    def read_anomaly_mask(self) -> np.ndarray | None:
        """(H, W) uint8: 0 in-distribution, 1 anomaly, 255 ignore; None without a file.

        Raises:
            ImageError: Unreadable, or a stored value that the data set does not define.
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
            ImageError: Unreadable, or a stored value that the data set does not define.
        """
        if self.labels_path is None:
            return None
        stored = self._read_stored(self.labels_path)
        if self.labels_table is not None:
            return _mapped(stored, self.labels_table, self.labels_path)
        if self.num_classes is not None:
            largest = stored.max(initial=0, where=stored != IGNORE_INDEX)
            hint = "if other values are meant, say what they mean in a label_map"
            if largest <= _LARGEST_LABEL_ID:
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
        """Reads everything that the sample has.

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
        return read_label(path) if self.colour_code is None else self.colour_code.read(path)


def _mapped(stored: np.ndarray, table: np.ndarray, path: Path) -> np.ndarray:
    """Looks stored values up, or raises ImageError for one that the table does not define."""
    found = table[stored]
    invalid = found == INVALID_ID
    if invalid.any():
        raise ImageError(
            f"{path}: holds the value {stored[invalid][0]}, which is no label of this data set"
        )
    return found


class Dataset(ABC):
    """A sequence of samples in a fixed order.

    Attributes:
        name: Key in the registry ``DATASETS``.
        tree: The expected folder tree, for error messages.
        taxonomy: What the labels mean, one sentence.
        taxonomy_name: Whose trainIds the labels are: a file of config/taxonomies.
        frame_rate: Images a second where the data set is a film; None otherwise.
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
        count = len(load_taxonomy(self.taxonomy_name).classes)
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
        """Whether a folder looks like this data set."""

    def wrong_tree(self, fault: str) -> DatasetError:
        """An error that says what is wrong and shows the tree that was expected."""
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
        DatasetError: Missing, not JSON, or not an object.
    """
    value = safe_yaml_json.read_json(path, DatasetError)
    if not isinstance(value, dict):
        raise DatasetError(f"{path}: expected a JSON object")
    return value


def number(value: object, key: str, path: Path) -> float:
    """A number out of a JSON file.

    Raises:
        DatasetError: Something else stands there.
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

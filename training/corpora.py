"""Closed-set training images: where they lie and how their labels become trainIds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

IGNORE_INDEX = 255

# CamVid's 11 benchmark classes -> Cityscapes trainIds. Ambiguous ones are ignored: its
# "bicyclist" holds rider and bicycle, its "sign" also traffic lights and texts.
CAMVID11 = {0: 10, 1: 2, 2: 5, 3: 0, 4: 1, 5: 8, 8: 13, 9: 11, 7: 4}
# The 32-class CamVid names -> trainIds; names not listed are ignored.
CAMVID32 = {
    "Road": 0, "LaneMkgsDriv": 0, "Sidewalk": 1, "Building": 2, "Archway": 2, "Wall": 3,
    "Fence": 4, "Column_Pole": 5, "TrafficLight": 6, "SignSymbol": 7, "Tree": 8, "Sky": 10,
    "Pedestrian": 11, "Child": 11, "Car": 13, "SUVPickupTruck": 13, "Train": 16,
    "MotorcycleScooter": 17,
}  # fmt: skip
# CamVid classes that belong to no Cityscapes class: natural unknowns.
CAMVID_UNKNOWN = frozenset({"Animal", "TrafficCone", "CartLuggagePram", "OtherMoving"})
# Cityscapes labelIds -> trainIds.
CITYSCAPES_IDS = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12,
    26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip


def lookup_table(mapping: Mapping[int, int] | None) -> np.ndarray:
    """A (256,) uint8 table for ``table[label]``; identity without a mapping."""
    if mapping is None:
        return np.arange(256, dtype=np.uint8)
    table = np.full(256, IGNORE_INDEX, np.uint8)
    for source, target in mapping.items():
        table[source] = target
    return table


@dataclass(frozen=True)
class Corpus:
    """One folder of labelled images, decoded into memory.

    Attributes:
        name: For logs.
        weight: Share of the training samples, relative to the other corpora.
        images: (H, W, 3) uint8 RGB arrays.
        labels: (H, W) uint8 trainIds, 255 = ignore.
        aspect: True width / height of frames that are stored squeezed; 0 = stored as taken.
    """

    name: str
    weight: float
    images: list[np.ndarray] = field(repr=False)
    labels: list[np.ndarray] = field(repr=False)
    aspect: float = 0.0

    def by_class(self, num_classes: int, min_pixels: int = 32) -> list[np.ndarray]:
        """Indices of the images that show each class with at least ``min_pixels`` pixels."""
        present = np.array(
            [
                np.bincount(x.ravel(), minlength=256)[:num_classes] >= min_pixels
                for x in self.labels
            ]
        )
        return [np.flatnonzero(present[:, c]) for c in range(num_classes)]


def read_rgb(path: Path) -> np.ndarray:
    """Decodes an image to (H, W, 3) uint8 RGB.

    Raises:
        FileNotFoundError, ValueError: Missing, or not an image that OpenCV reads.
    """
    return cv2.cvtColor(_decode(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def read_label(path: Path, table: np.ndarray) -> np.ndarray:
    """Decodes a single-channel label image and maps it through ``table``."""
    label = _decode(path, cv2.IMREAD_UNCHANGED)
    if label.ndim != 2 or label.dtype != np.uint8:
        raise ValueError(f"{path}: expected one 8-bit channel, got {label.shape} {label.dtype}")
    return table[label]


def _decode(path: Path, flags: int) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    array = cv2.imread(str(path), flags)
    if array is None:
        raise ValueError(f"{path}: not a readable image")
    return array


def folder_pairs(root: Path, exclude: frozenset[str] = frozenset()) -> Iterator[tuple[Path, Path]]:
    """Pairs ``images/<stem>.*`` with ``labels/<stem>.png``, sorted by stem."""
    images = sorted((root / "images").glob("*"))
    if not images:
        raise FileNotFoundError(f"{root}: expected images/ and labels/ with files of equal stems")
    for image in images:
        if image.stem not in exclude:
            yield image, root / "labels" / f"{image.stem}.png"


def cityscapes_pairs(root: Path, split: str) -> Iterator[tuple[Path, Path]]:
    """Pairs of the original Cityscapes layout."""
    images = sorted((root / "leftImg8bit" / split).glob("*/*_leftImg8bit.*"))
    if not images:
        raise FileNotFoundError(f"{root}: expected leftImg8bit/{split}/<city>/*_leftImg8bit.*")
    for image in images:
        stem = image.stem.removesuffix("_leftImg8bit")
        yield image, root / "gtFine" / split / image.parent.name / f"{stem}_gtFine_labelIds.png"


def load_corpus(
    name: str,
    pairs: Iterator[tuple[Path, Path]],
    table: np.ndarray,
    weight: float = 1.0,
    aspect: float = 0.0,
) -> Corpus:
    """Decodes all pairs of a corpus into memory.

    Args:
        name: For logs and errors.
        pairs: Image and label paths.
        table: (256,) uint8 map from stored label to trainId.
        weight: Sampling weight.
        aspect: True width / height of frames that are stored squeezed; 0 keeps the stored shape.

    Raises:
        ValueError: An unreadable file, or an image and label of different size.
    """
    images, labels = [], []
    for image_path, label_path in pairs:
        image, label = read_rgb(image_path), read_label(label_path, table)
        if image.shape[:2] != label.shape:
            raise ValueError(f"{label_path}: size {label.shape}, its image has {image.shape[:2]}")
        images.append(image)
        labels.append(label)
    return Corpus(name, weight, images, labels, aspect)

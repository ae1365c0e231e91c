# SPDX-License-Identifier: Apache-2.0
"""Base of the object sources that read annotated images: filtered once, decoded on demand.

At the start, all annotations are read, or the index of an earlier run, and the headers of some of
the images with selected objects. Pixels are read when an object is requested.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from anomaly_seg_ros.errors import DatasetError, ImageError, ParameterError
from anomaly_seg_ros.io.images import read_annotated_image, read_size
from training.data.cache import cache_path
from training.data.negatives.annotations import Annotations
from training.data.negatives.index import ObjectIndex
from training.data.negatives.known_classes import KnownClasses
from training.data.negatives.objects import LeastRecentlyUsed, NegativeObject
from training.data.negatives.quality import Quality
from training.data.negatives.selection import KNOWN, Selection, select

# Headers to read at the start; COCO's 118,000 would take minutes from a cold disk.
_HEADERS = 1000


class IndexedObjects:
    """Base of the sources that read annotated images.

    Args:
        name: Name of the data set, for logs, errors and ``NegativeObject.source``.
        folder: Image folder, to which paths are relative.
        annotations: Opens the annotations of the data set, unless an index is at hand.
        classes: Categories that the target taxonomy knows.
        known: "exclude" selects the unknown objects (negatives); "only" selects the known ones and
            reports the target class as their category.
        quality: Rules for complete objects.
        cache_mib: Cache of decoded objects, in MiB over all loader processes.
        state: Identifies the state of the annotations. The selection is kept in the cache folder
            (:mod:`training.data.cache`) until it, or another argument, changes; "" keeps nothing.

    Raises:
        ParameterError: ``known`` has another value.
        DatasetError: No object is left (the message lists the violated rules), or images are
            missing.
        ImageError: An image is unreadable, or has another size than its annotation.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        annotations: Callable[[], Annotations],
        classes: KnownClasses,
        known: str = "exclude",
        quality: Quality | None = None,
        cache_mib: float = 64.0,
        state: str = "",
    ) -> None:
        if known not in KNOWN:
            raise ParameterError(f"known: expected one of {', '.join(KNOWN)}, got {known!r}")
        self.name = name
        self.folder = folder
        self.classes = classes
        self.known = known
        self.quality = quality or Quality()
        self.index = self._build(annotations, state)
        self._kept = LeastRecentlyUsed(cache_mib)
        if not len(self):
            why = self._drops() if self.index.dropped else "no object is marked"
            raise DatasetError(f"{name} at {folder}: no usable object left ({why})")
        self._check_files()

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> NegativeObject:
        """Decodes an object.

        Raises:
            IndexError: There is no such object.
            ImageError: Its image is missing, unreadable, or its size has changed.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}: object {index} of {len(self)}")
        return self._kept(index, self._decode)

    @property
    def categories(self) -> list[str]:
        """Categories of all objects, without decoding them."""
        return [self.index.names[c] for c in self.index.category]

    def describe(self) -> str:
        """Describes the known classes, the dropped objects by rule, and the selected objects."""
        kept = ", ".join(f"{n} {c}" for c, n in self.index.count_categories().most_common())
        kind = "unknown" if self.known == "exclude" else "known"
        return (
            f"{self.classes.describe()}\n"
            f"{self.name} at {self.folder}: {len(self)} {kind} objects in "
            f"{len(self.index.paths)} images (dropped: {self._drops()})\n"
            f"  {kept}"
            + "".join(f"\n  unusable, {rule}: {names}" for rule, names in self._unusable())
        )

    @property
    def dropped(self) -> dict[str, int]:
        """Number of dropped objects by rule."""
        return dict(self.index.dropped)

    def _build(self, annotations: Callable[[], Annotations], state: str) -> ObjectIndex:
        def build() -> ObjectIndex:
            selection = Selection(annotations(), self.classes, self.known, self.quality)
            return ObjectIndex.build(*select(selection, self.name))

        if not state:
            return build()
        targets = sorted(self.classes.targets.items())
        key = repr((self.name, str(self.folder.absolute()), self.known, targets, self.quality))
        path = cache_path("objects", key)
        index = ObjectIndex.load(path, key + state)
        if index is None:
            index = build()
            index.save(path, key + state)
        return index

    def _check_files(self) -> None:
        """Compares files with annotations, so that most runs do not fail hours later.

        All images must be there. The headers of an even sample are read; the others are compared
        when they are used.
        """
        paths = [str(x) for x in self.index.paths]
        absent = _absent(self.folder, paths)
        if absent:
            raise DatasetError(
                f"{self.folder}: {len(absent)} of {len(paths)} images with objects are "
                f"missing, the first is {absent[0]}"
            )
        _, firsts = np.unique(self.index.image, return_index=True)
        sample = np.linspace(0, len(paths) - 1, min(len(paths), _HEADERS)).astype(int)
        for image in sample.tolist():
            size = self._size(firsts[image])
            if read_size(self.folder / paths[image]) != size:
                # Either rotated by its EXIF orientation, or not the annotated image.
                self._read(paths[image], size)

    def _size(self, index: int) -> tuple[int, int]:
        """Returns the (height, width) of an object's annotated image."""
        height, width = self.index.size[index]
        return int(height), int(width)

    def _read(self, path: str, size: tuple[int, int]) -> np.ndarray:
        """Reads an image as (H, W, 3) uint8 RGB; checks that it has the annotated size."""
        image = read_annotated_image(self.folder / path, size)
        if image.shape[:2] != size:
            raise ImageError(
                f"{self.folder / path}: {image.shape[1]}x{image.shape[0]} pixels, but its "
                f"annotation is for {size[1]}x{size[0]}"
            )
        return image

    def _unusable(self) -> Iterator[tuple[str, str]]:
        """Yields each fault with the names of the first annotations that have it."""
        for rule, names in self.index.unusable.items():
            more = self.index.dropped[rule] - len(names)
            yield rule, ", ".join(names) + (f" and {more} more" if more else "")

    def _drops(self) -> str:
        return ", ".join(f"{n} {rule}" for rule, n in self.index.dropped.most_common()) or "none"

    def _decode(self, index: int) -> NegativeObject:
        path = str(self.index.paths[self.index.image[index]])
        image = self._read(path, self._size(index))
        top, left, rows, columns = (int(x) for x in self.index.box[index])
        return NegativeObject(
            image=image[top : top + rows, left : left + columns].copy(),
            mask=self.index.mask(index),
            category=self.index.names[self.index.category[index]],
            source=f"{self.name} {Path(path).stem} #{self.index.identities[index]}",
        )


def _absent(folder: Path, paths: Sequence[str]) -> list[str]:
    """Returns the paths that are no files; lists folders, which is faster than asking for each."""
    listed: dict[Path, set[str]] = {}
    absent = []
    for path in paths:
        parent, name = (folder / path).parent, Path(path).name
        if parent not in listed:
            listed[parent] = _files_in(parent)
        if name not in listed[parent]:
            absent.append(path)
    return absent


def _files_in(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:
        return set()

"""Base of the object sources that read annotated images: filtered once, decoded on demand.

At the start, all annotations are read, or the index of an earlier run, and the headers of the
images with selected objects. Pixels are read when an object is requested.
"""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_seg_ros.errors import DatasetError, ImageError, ParameterError, first_line
from anomaly_seg_ros.io.images import read_annotated_image, read_size
from training.data.negatives.index import Drops, ObjectIndex, SelectedObject
from training.data.negatives.known_classes import UNCLEAR, UNKNOWN, KnownClasses
from training.data.negatives.objects import NegativeObject
from training.data.negatives.quality import Instance, Quality

KNOWN = ("exclude", "only")
# Signatures of zip, gzip, xz and bzip2.
_PACKED = (b"PK", b"\x1f\x8b", b"\xfd7zXZ", b"BZh")


@dataclass(frozen=True)
class AnnotatedImage:
    """Annotations of one image.

    Attributes:
        path: Path relative to the image folder.
        size: (height, width) of the annotated image.
        categories: Class names of the instances.
        instance: Decodes the k-th instance.
    """

    path: str
    size: tuple[int, int]
    categories: tuple[str, ...]
    instance: Callable[[int], Instance]


@dataclass(frozen=True)
class Unusable:
    """An annotation without a valid image or category.

    Attributes:
        rule: Reason for leaving it out.
        name: Name of the annotation.
    """

    rule: str
    name: str


class IndexedObjects:
    """Base of the sources that read annotated images.

    Args:
        name: Name of the data set, for logs, errors and ``NegativeObject.source``.
        folder: Image folder, to which paths are relative.
        images: Annotated images of the data set, in a fixed order.
        classes: Categories that the target taxonomy knows.
        known: "exclude" selects the unknown objects (negatives); "only" selects the known ones and
            reports the target class as their category.
        quality: Rules for complete objects.
        cache_mib: Cache of decoded objects, in MiB per process.
        index_file: File that keeps the selection for later runs, because full COCO takes minutes.
            It is rebuilt when an argument or the annotations change.
        stamp: Identifies the state of the annotations.

    Raises:
        ParameterError: ``known`` has another value.
        DatasetError: No object is left (the message lists the violated rules), or images are
            missing.
        ImageError: An image is unreadable, or has another size than its annotation.
        OutputError: The index file cannot be written.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        images: Iterable[AnnotatedImage | Unusable],
        classes: KnownClasses,
        known: str = "exclude",
        quality: Quality | None = None,
        cache_mib: float = 64.0,
        index_file: str | Path | None = None,
        stamp: str = "",
    ) -> None:
        if known not in KNOWN:
            raise ParameterError(f"known: expected one of {', '.join(KNOWN)}, got {known!r}")
        self.name = name
        self.folder = folder
        self.classes = classes
        self.known = known
        self.quality = quality or Quality()
        self.cache_mib = cache_mib
        self.index = self._build(images, index_file, stamp)
        self._cache: OrderedDict[int, NegativeObject] = OrderedDict()
        self._cached_bytes = 0
        if not len(self):
            raise DatasetError(f"{name} at {folder}: no usable object left ({self._drops()})")
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
        if index in self._cache:
            self._cache.move_to_end(index)
            return self._cache[index]
        found = self._decode(index)
        self._cache[index] = found
        self._cached_bytes += found.image.nbytes + found.mask.nbytes
        while self._cached_bytes > self.cache_mib * 2**20 and self._cache:
            _, oldest = self._cache.popitem(last=False)
            self._cached_bytes -= oldest.image.nbytes + oldest.mask.nbytes
        return found

    def __getstate__(self) -> dict[str, object]:
        """Leaves out the cache; each worker fills its own."""
        return {**self.__dict__, "_cache": OrderedDict(), "_cached_bytes": 0}

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

    def _build(
        self,
        images: Iterable[AnnotatedImage | Unusable],
        index_file: str | Path | None,
        stamp: str,
    ) -> ObjectIndex:
        drops = Drops()
        if index_file is None:
            return ObjectIndex.build(self._select(images, drops), drops)
        path = Path(index_file)
        targets = sorted(self.classes.targets.items())
        origin = repr((self.name, str(self.folder), self.known, targets, self.quality, stamp))
        index = ObjectIndex.load(path, origin)
        if index is None:
            index = ObjectIndex.build(self._select(images, drops), drops)
            index.save(path, origin)
        return index

    def _check_files(self) -> None:
        """Compares image headers with the annotations, so that a run does not fail hours later."""
        paths = [str(x) for x in self.index.paths]
        absent = [x for x in paths if not (self.folder / x).is_file()]
        if absent:
            raise DatasetError(
                f"{self.folder}: {len(absent)} of {len(paths)} images with objects are "
                f"missing, the first is {absent[0]}"
            )
        _, firsts = np.unique(self.index.image, return_index=True)
        for path, first in zip(paths, firsts, strict=True):
            size = self._size(first)
            if read_size(self.folder / path) != size:
                # Either rotated by its EXIF orientation, or not the annotated image.
                self._read(path, size)

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

    def _select(
        self, images: Iterable[AnnotatedImage | Unusable], drops: Drops
    ) -> Iterator[SelectedObject]:
        """Yields the selected objects and counts the others by rule."""
        dropped = drops.counts
        for image in images:
            if isinstance(image, Unusable):
                drops.add_unusable(image.rule, image.name)
                continue
            wanted = [self._wanted(category, dropped) for category in image.categories]
            if not any(wanted):
                continue
            decode = cache(image.instance)
            for k, category in enumerate(wanted):
                if category is None:
                    continue
                instance = decode(k)
                if instance.fault:
                    drops.add_unusable(instance.fault, f"{image.path} #{instance.identity}")
                    continue
                others = []
                if instance.hidden is None:
                    others = [decode(j) for j in range(len(wanted)) if j != k]
                rule = self.quality.broken_rule(instance, others, image.size)
                if rule is None:
                    yield image.path, image.size, category, instance
                else:
                    dropped[rule] += 1

    def _wanted(self, category: str, dropped: Counter[str]) -> str | None:
        """Returns the category to report, or None if the object is not wanted."""
        target = self.classes.target(category)
        if self.known == "exclude":
            if target == UNKNOWN:
                return category
            dropped["unclear class" if target == UNCLEAR else "known class"] += 1
            return None
        if target not in (UNKNOWN, UNCLEAR):
            return target
        dropped["unclear class" if target == UNCLEAR else "unknown class"] += 1
        return None

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


def read_annotations(path: Path, lenient: bool = False) -> Any:
    """Reads a JSON file of annotations.

    Args:
        path: The file.
        lenient: Use replacement characters for text that is not UTF-8.

    Raises:
        DatasetError: The file is missing, unreadable, compressed, truncated or not JSON; the
            message names it.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file") from None
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}") from error
    except MemoryError:
        raise DatasetError(f"{path}: does not fit into memory") from None
    if data.startswith(_PACKED):
        raise DatasetError(f"{path}: a packed file and not JSON; unpack it")
    try:
        text = data.decode("utf-8-sig", "replace" if lenient else "strict")
        return json.loads(text)
    except json.JSONDecodeError as error:
        ends_there = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        reason = "; the file ends too early: it was cut short" if ends_there else ""
        raise DatasetError(f"{path}: not JSON ({error}){reason}") from error
    except RecursionError:
        raise DatasetError(f"{path}: not JSON (nested too deeply)") from None
    except (ValueError, MemoryError) as error:  # not UTF-8, or a number with thousands of digits
        raise DatasetError(f"{path}: not JSON ({first_line(error)})") from error

# SPDX-License-Identifier: Apache-2.0
"""Reader of COCO's annotation files, of hundreds of megabytes and not always well-formed.

The segmentations, nine tenths of a file, stay text until they are needed. What the fast reader
does not accept is left to the standard library's, whose messages say where the fault is.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET

from anomaly_seg_ros.errors import DatasetError
from anomaly_seg_ros.io.image_headers import MOST_PIXELS
from anomaly_seg_ros.io.safe_yaml_json import short_repr
from training.data.negatives.annotations import (
    AnnotatedImage,
    Unusable,
    parse_annotations,
    read_file,
)
from training.data.negatives.quality import DAMAGED, Instance
from training.data.negatives.run_lengths import RunLengths
from training.data.negatives.segmentation import UnusableMaskError, from_polygons, run_lengths

_ID = (int, float, str)
# Keys that every entry must have.
_NEEDED = {
    "images": ("file_name", "height", "id", "width"),
    "categories": ("id", "name"),
}


class _Image(msgspec.Struct, gc=False):
    file_name: Any = UNSET
    height: Any = UNSET
    id: Any = UNSET
    width: Any = UNSET


class _Category(msgspec.Struct, gc=False):
    id: Any = UNSET
    name: Any = UNSET


class _Annotation(msgspec.Struct, gc=False):
    id: Any = UNSET
    image_id: Any = UNSET
    category_id: Any = UNSET
    iscrowd: Any = 0
    # Text from the fast reader, any value from the other.
    segmentation: msgspec.Raw = msgspec.Raw(b"null")
    segments_info: msgspec.Raw | msgspec.UnsetType = UNSET


class _File(msgspec.Struct):
    images: list[_Image] = []
    categories: list[_Category] = []
    annotations: list[_Annotation] = []


_FILE_PARTS = {"images": _Image, "categories": _Category, "annotations": _Annotation}
_FILE = msgspec.json.Decoder(_File)
_POLYGONS = msgspec.json.Decoder(list[list[float]])


class CocoFile:
    """Content of an annotation file; its images in the order of their ids.

    Args:
        path: The file.

    Attributes:
        names: Category name by category id.

    Raises:
        DatasetError: The file is missing, damaged or not in COCO's format.
    """

    def __init__(self, path: Path) -> None:
        content = _read(path)
        for image in content.images:
            image.height, image.width = _size(image, path)
        images, images_twice = _by_id(content.images, ("file_name", "height", "width"))
        categories, names_twice = _by_id(content.categories, ("name",))
        self.names = {key: str(category.name) for key, category in categories.items()}
        self._images = [images[key] for key in sorted(images, key=_id_order)]
        self._annotations: dict[Any, list[_Annotation]] = defaultdict(list)
        self._unusable: list[Unusable] = []
        for entry in content.annotations:
            if rule := _misplaced(entry, images, self.names, images_twice, names_twice):
                self._unusable.append(Unusable(rule, f"annotation {_name(entry)}"))
            else:
                self._annotations[entry.image_id].append(entry)
                entry.image_id = None  # a number of its own; there are a million

    def __len__(self) -> int:
        return max(1, len(self._images))

    def read(self, index: int) -> Iterator[AnnotatedImage | Unusable]:
        """Yields an image; before the first one, all annotations that have no image."""
        if index == 0:
            yield from self._unusable
        if not self._images:  # all are there twice, with different content
            return
        image = self._images[index]
        annotations = sorted(
            self._annotations.get(image.id, ()), key=lambda entry: _id_order(entry.id)
        )
        size = (image.height, image.width)
        yield AnnotatedImage(
            path=str(image.file_name),
            size=size,
            categories=tuple(self.names[entry.category_id] for entry in annotations),
            instance=partial(_instance, annotations, self.names, size),
        )


def _read(path: Path) -> _File:
    """Reads the file; each entry of "images" and "categories" has the needed keys."""
    data = read_file(path)
    try:
        content = _FILE.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        content = _converted(parse_annotations(data, path), path)
    for part in _FILE_PARTS:
        if not getattr(content, part):
            raise DatasetError(f"{path}: no {part}")
    if any(getattr(x, "segments_info", UNSET) is not UNSET for x in content.annotations):
        raise DatasetError(f"{path}: COCO's panoptic format; the instances are needed")
    for part in _NEEDED:
        for entry in getattr(content, part):
            if absent := _absent(entry, part):
                raise DatasetError(f"{path}: {part}: {_name(entry)} has no {absent}")
    return content


def _converted(content: Any, path: Path) -> _File:
    """Takes over what the standard library read; entries that are no objects stay as they are."""
    if not isinstance(content, dict):
        raise DatasetError(
            f"{path}: not in COCO's format (no object with {', '.join(_FILE_PARTS)})"
        )
    found = _File()
    for part, cls in _FILE_PARTS.items():
        entries = content.get(part) or []
        if not isinstance(entries, list):
            raise DatasetError(f"{path}: not in COCO's format ({part} is no list)")
        keys = cls.__struct_fields__
        setattr(
            found,
            part,
            [
                cls(**{key: x[key] for key in keys if key in x}) if isinstance(x, dict) else x
                for x in entries
            ],
        )
    return found


def _absent(entry: Any, part: str) -> str:
    """Lists the keys that an entry lacks; an id must be a number or a text."""
    values = {key: getattr(entry, key, UNSET) for key in _NEEDED[part]}
    return ", ".join(
        key
        for key, value in values.items()
        if value is UNSET or (key == "id" and not isinstance(value, _ID))
    )


def _name(entry: Any) -> str:
    if not isinstance(entry, msgspec.Struct):
        return short_repr(entry)
    known = {
        key: getattr(entry, key)
        for key in ("id", "file_name", "name", "image_id")
        if getattr(entry, key, UNSET) is not UNSET
    }
    return short_repr(known.get("id", known))


def _size(image: _Image, path: Path) -> tuple[int, int]:
    """Returns (height, width) of an image entry."""
    sides = image.height, image.width
    if not all(isinstance(n, int | float) and n >= 1 and n == n // 1 for n in sides):
        raise DatasetError(
            f"{path}: images: {_name(image)}: height {short_repr(sides[0])} and width "
            f"{short_repr(sides[1])} are no numbers of pixels"
        )
    if sides[0] * sides[1] > MOST_PIXELS:
        raise DatasetError(
            f"{path}: images: {_name(image)}: {sides[1]} x {sides[0]} pixels, more than "
            f"{MOST_PIXELS / 1e6:.0f} million"
        )
    return int(sides[0]), int(sides[1])


def _by_id(entries: Sequence[Any], keys: Sequence[str]) -> tuple[dict[Any, Any], set[Any]]:
    """Returns entries by id, and ids with conflicting entries, which merged files may have."""
    found: dict[Any, Any] = {}
    twice = set()
    for entry in entries:
        first = found.setdefault(entry.id, entry)
        if any(getattr(first, key) != getattr(entry, key) for key in keys):
            twice.add(entry.id)
    return {key: entry for key, entry in found.items() if key not in twice}, twice


def _misplaced(
    entry: Any,
    images: Mapping[Any, _Image],
    names: Mapping[Any, str],
    images_twice: set[Any],
    names_twice: set[Any],
) -> str:
    """Returns why an annotation has no valid image or category, or "" if it has."""
    if not (
        isinstance(entry, _Annotation)
        and isinstance(entry.id, _ID)
        and isinstance(entry.image_id, _ID)
        and isinstance(entry.category_id, _ID)
    ):
        return "incomplete"
    if entry.image_id in images_twice:
        return "of an image id that stands twice"
    if entry.category_id in names_twice:
        return "of a category id that stands twice"
    if entry.image_id not in images:
        return "of no image"
    return "" if entry.category_id in names else "of no category"


def _id_order(identity: Any) -> tuple[bool, Any]:
    """Sort key: numbers by value, then texts; merged files may have both."""
    is_number = isinstance(identity, int | float)
    return not is_number, identity if is_number else str(identity)


def _instance(
    annotations: Sequence[_Annotation], names: Mapping[Any, str], size: tuple[int, int], k: int
) -> Instance:
    entry = annotations[k]
    category, identity = names[entry.category_id], str(entry.id)
    try:
        shape = _decode(entry.segmentation, size)
    except UnusableMaskError as fault:
        return Instance.unusable(category, identity, str(fault))
    return Instance(category, identity, shape, crowd=bool(entry.iscrowd))


def _decode(segmentation: Any, size: tuple[int, int]) -> RunLengths:
    if not isinstance(segmentation, msgspec.Raw):
        return run_lengths(segmentation, size)
    try:
        return from_polygons(_POLYGONS.decode(segmentation), size)
    except msgspec.MsgspecError:  # no polygons of numbers
        pass
    try:
        content = json.loads(bytes(segmentation))
    except (ValueError, RecursionError):
        raise UnusableMaskError(DAMAGED) from None
    return run_lengths(content, size)

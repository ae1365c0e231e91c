"""COCO instances (Lin et al., ECCV 2014), https://cocodataset.org, in their original layout.

Segmentations are checked before they are decoded, because pycocotools trusts the file: an infinite
coordinate crashes the process, run lengths that stop short leave the rest of the mask
uninitialised, and a truncated compressed code is read beyond its end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from anomaly_seg_ros.errors import DatasetError
from anomaly_seg_ros.io.image_headers import MOST_PIXELS
from anomaly_seg_ros.io.safe_yaml_json import short_repr
from training.data.negatives.indexed import (
    AnnotatedImage,
    IndexedObjects,
    Unusable,
    read_annotations,
)
from training.data.negatives.known_classes import KnownClasses
from training.data.negatives.quality import ABSENT, DAMAGED, OTHER_SIZE, Instance, Quality

_TREE = "ROOT/annotations/instances_SPLIT.json and ROOT/SPLIT/*.jpg"
# Keys that every entry of the annotation file must have.
_NEEDED = {
    "images": ("file_name", "height", "id", "width"),
    "categories": ("id", "name"),
    "annotations": ("id", "image_id", "category_id"),
}
OUTSIDE = "outside the image"
# Polygons may extend beyond the image by at most this multiple of its longer side.
_FARTHEST = 16
# Maximum number of bits in a run length; enough for any image.
_LONGEST_CODE = 40


class CocoObjects(IndexedObjects):
    """The complete, non-occluded objects of one split.

    Unusable annotations are left out and counted by fault: the segmentation is missing (a box
    alone is not enough) or damaged, or the image or category is not listed, or listed twice with
    different content.

    Args:
        root: Folder with annotations/ and the image folders.
        split: Split, such as "train2017".
        known: "exclude" or "only", see :class:`IndexedObjects`.
        taxonomy: Taxonomy of the known classes.
        overrides: Changes to the table of known classes, see :class:`KnownClasses`.
        quality: Rules for complete objects.
        cache_mib: Cache of decoded objects, in MiB per process.
        index_file: File that keeps the selection for later runs, see :class:`IndexedObjects`.

    Raises:
        DatasetError: Files are missing or do not match the annotations, the annotation file is
            damaged or not in COCO's format, or no object is left.
        ParameterError: An override is invalid.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train2017",
        known: str = "exclude",
        taxonomy: str = "cityscapes",
        overrides: Mapping[str, str] | None = None,
        quality: Quality | None = None,
        cache_mib: float = 64.0,
        index_file: str | Path | None = None,
    ) -> None:
        overrides = overrides or {}
        annotations = Path(root) / "annotations" / f"instances_{split}.json"
        folder = Path(root) / split
        if not annotations.is_file():
            raise DatasetError(f"{annotations}: no such file; expected {_TREE}")
        if not folder.is_dir():
            raise DatasetError(f"{folder}: no such folder; expected {_TREE}")
        classes = KnownClasses.load(taxonomy, "coco", overrides)
        super().__init__(
            name="coco",
            folder=folder,
            images=_annotated_images(annotations, classes, overrides),
            classes=classes,
            known=known,
            quality=quality,
            cache_mib=cache_mib,
            index_file=index_file,
            stamp=f"{annotations.stat().st_size} {annotations.stat().st_mtime_ns}",
        )


@dataclass
class _Content:
    """Content of an annotation file, by id.

    Attributes:
        images: Image entry by image id.
        names: Category name by category id.
        annotations: Annotation entries by image id.
        unusable: Annotations without a valid image or category.
    """

    images: dict[Any, dict[str, Any]] = field(default_factory=dict)
    names: dict[Any, str] = field(default_factory=dict)
    annotations: dict[Any, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    unusable: list[Unusable] = field(default_factory=list)


def _read(path: Path) -> _Content:
    content = read_annotations(path)
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: not in COCO's format (no object with {', '.join(_NEEDED)})")
    for part in _NEEDED:
        if not content.get(part):
            raise DatasetError(f"{path}: no {part}")
        if not isinstance(content[part], list):
            raise DatasetError(f"{path}: not in COCO's format ({part} is no list)")
    if any(isinstance(x, dict) and "segments_info" in x for x in content["annotations"]):
        raise DatasetError(f"{path}: COCO's panoptic format; the instances are needed")
    for part in ("images", "categories"):
        for entry in content[part]:
            if absent := _absent(entry, part):
                raise DatasetError(f"{path}: {part}: {_name(entry)} has no {absent}")
    for image in content["images"]:
        image["height"], image["width"] = _size(image, path)
    found = _Content()
    found.images, images_twice = _by_id(content["images"], ("file_name", "height", "width"))
    categories, names_twice = _by_id(content["categories"], ("name",))
    found.names = {key: str(category["name"]) for key, category in categories.items()}
    for entry in content["annotations"]:
        if rule := _misplaced(entry, found, images_twice, names_twice):
            found.unusable.append(Unusable(rule, f"annotation {_name(entry)}"))
        else:
            found.annotations[entry["image_id"]].append(entry)
    return found


def _absent(entry: Any, part: str) -> str:
    """Lists the keys that an entry lacks; an id must be a number or a string."""
    if not isinstance(entry, dict):
        return ", ".join(_NEEDED[part])
    return ", ".join(
        key
        for key in _NEEDED[part]
        if key not in entry
        or (key.endswith("id") and not isinstance(entry[key], int | float | str))
    )


def _name(entry: Any) -> str:
    return short_repr(entry.get("id", entry)) if isinstance(entry, dict) else short_repr(entry)


def _size(image: Mapping[str, Any], path: Path) -> tuple[int, int]:
    """Returns (height, width) of an image entry."""
    sides = image["height"], image["width"]
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


def _by_id(
    entries: Sequence[dict[str, Any]], keys: Sequence[str]
) -> tuple[dict[Any, dict[str, Any]], set[Any]]:
    """Returns entries by id, and ids with conflicting entries, which merged files may have."""
    found: dict[Any, dict[str, Any]] = {}
    twice = set()
    for entry in entries:
        first = found.setdefault(entry["id"], entry)
        if any(first[key] != entry[key] for key in keys):
            twice.add(entry["id"])
    return {key: entry for key, entry in found.items() if key not in twice}, twice


def _misplaced(
    annotation: Any, content: _Content, images_twice: set[Any], names_twice: set[Any]
) -> str:
    """Returns why an annotation has no valid image or category, or "" if it has."""
    if _absent(annotation, "annotations"):
        return "incomplete"
    image, category = annotation["image_id"], annotation["category_id"]
    if image in images_twice:
        return "of an image id that stands twice"
    if category in names_twice:
        return "of a category id that stands twice"
    if image not in content.images:
        return "of no image"
    return "" if category in content.names else "of no category"


def _annotated_images(
    path: Path, classes: KnownClasses, overrides: Mapping[str, str]
) -> Iterator[AnnotatedImage | Unusable]:
    """Reads the annotation file lazily, when the first image is requested."""
    content = _read(path)
    classes.check_names(content.names.values(), overrides)
    yield from content.unusable
    for key in sorted(content.images, key=_id_order):
        image = content.images[key]
        annotations = sorted(content.annotations[key], key=lambda a: _id_order(a["id"]))
        size = (image["height"], image["width"])
        yield AnnotatedImage(
            path=str(image["file_name"]),
            size=size,
            categories=tuple(content.names[a["category_id"]] for a in annotations),
            instance=partial(_instance, annotations, content.names, size),
        )


def _id_order(identity: Any) -> tuple[bool, Any]:
    """Sort key: numbers by value, then strings; merged files may have both."""
    is_number = isinstance(identity, int | float)
    return not is_number, identity if is_number else str(identity)


def _instance(
    annotations: list[dict[str, Any]], names: Mapping[Any, str], size: tuple[int, int], k: int
) -> Instance:
    annotation = annotations[k]
    category, identity = names[annotation["category_id"]], str(annotation["id"])
    try:
        mask = decode_mask(annotation.get("segmentation"), size)
    except UnusableMaskError as fault:
        return Instance.unusable(category, identity, str(fault))
    return Instance.from_mask(mask, category, identity, crowd=bool(annotation.get("iscrowd", 0)))


class UnusableMaskError(ValueError):
    """A segmentation gives no mask; the message is the violated rule."""


def decode_mask(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """Decodes polygons, run lengths or compressed run lengths.

    Args:
        segmentation: Segmentation from the annotation file.
        size: (height, width) of the image.

    Returns:
        (H, W) uint8 of 0 and 1.

    Raises:
        UnusableMaskError: It is missing, malformed, of another size or outside the image.
    """
    if isinstance(segmentation, dict) and segmentation:
        runs = _run_lengths(segmentation, size)
        values = (np.arange(len(runs)) % 2).astype(np.uint8)
        return np.repeat(values, runs).reshape(size, order="F")
    if not segmentation:
        raise UnusableMaskError(ABSENT)
    if not isinstance(segmentation, list):
        raise UnusableMaskError(DAMAGED)
    height, width = size
    polygons = _polygons(segmentation, size)
    return rle.decode(rle.merge(rle.frPyObjects(polygons, height, width)))


def _polygons(parts: Sequence[Any], size: tuple[int, int]) -> list[list[float]]:
    """Returns the parts that have an area; parts with too few points are skipped."""
    height, width = size
    polygons = []
    is_inside = False
    for part in parts:
        points = _numbers(part)
        if len(points) % 2 or (np.abs(points) > _FARTHEST * max(size)).any():
            raise UnusableMaskError(DAMAGED)
        if len(points) < 6:
            continue
        polygons.append(points.tolist())
        x, y = points[::2], points[1::2]
        is_inside |= x.max() > 0 and y.max() > 0 and x.min() < width and y.min() < height
    if not polygons:
        raise UnusableMaskError(DAMAGED if any(parts) else ABSENT)
    if not is_inside:
        raise UnusableMaskError(OUTSIDE)
    return polygons


def _run_lengths(segmentation: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """Returns the (n,) int64 lengths of alternating runs of 0 and 1, which fill the image."""
    stated = _numbers(segmentation.get("size"))
    if len(stated) != 2:
        raise UnusableMaskError(DAMAGED)
    if tuple(stated) != size:
        raise UnusableMaskError(OTHER_SIZE)
    counts = segmentation.get("counts")
    runs = _numbers(_decompressed(counts) if isinstance(counts, str) else counts)
    pixels = size[0] * size[1]
    is_whole = ((runs >= 0) & (runs <= pixels) & (runs == np.floor(runs))).all()
    if not is_whole or runs.sum() != pixels:
        raise UnusableMaskError(DAMAGED)
    return runs.astype(np.int64)


def _numbers(values: Any) -> np.ndarray:
    """Converts a list to (n,) float64, all finite."""
    if not isinstance(values, list):
        raise UnusableMaskError(DAMAGED)
    if not values:
        return np.empty(0)
    try:
        array = np.array(values)
    except ValueError:  # ragged nested lists
        raise UnusableMaskError(DAMAGED) from None
    if array.ndim != 1 or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise UnusableMaskError(DAMAGED)
    return array.astype(np.float64)


def _decompressed(text: str) -> list[int]:
    """Decodes COCO's run lengths: six bits per character, delta-coded by every second run."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > _LONGEST_CODE:
            raise UnusableMaskError(DAMAGED)
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:  # the number continues
            continue
        if bits & 0x10:  # the number is negative
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise UnusableMaskError(DAMAGED)
    return runs

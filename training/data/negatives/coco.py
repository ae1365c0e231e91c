"""COCO instances (Lin et al., ECCV 2014), https://cocodataset.org, in its own layout."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from anomaly_seg_ros.errors import DatasetError
from anomaly_seg_ros.io.image_headers import MOST_PIXELS
from anomaly_seg_ros.io.safe_yaml_json import short_repr
from training.data.negatives.annotation_files import read_annotations
from training.data.negatives.coco_masks import UnusableMaskError, decode_mask
from training.data.negatives.indexed import AnnotatedImage, IndexedObjects, Unusable
from training.data.negatives.known_classes import KnownClasses
from training.data.negatives.quality import Instance, Quality

_TREE = "ROOT/annotations/instances_SPLIT.json and ROOT/SPLIT/*.jpg"
# What every entry of the annotation file must have.
_NEEDED = {
    "images": ("file_name", "height", "id", "width"),
    "categories": ("id", "name"),
    "annotations": ("id", "image_id", "category_id"),
}


class CocoObjects(IndexedObjects):
    """The whole, non-occluded objects of one split.

    An annotation that cannot be used is left out and counted by its fault: no segmentation (a box
    alone cuts nothing out) or a damaged one, an image or category that is not listed or is listed
    twice with different content.

    Args:
        root: Folder with annotations/ and the folders of images.
        split: Such as "train2017".
        known: "exclude" or "only", see :class:`IndexedObjects`.
        taxonomy: Whose classes are known.
        overrides: Changes to the table of known classes, see :class:`KnownClasses`.
        quality: What counts as a whole object.
        cache_mib: Decoded objects to keep, in MiB for each process.
        index_file: Keeps the selection for the next run, see :class:`IndexedObjects`.

    Raises:
        DatasetError: Files are missing or are not those that were annotated, the annotation file
            is damaged or not in COCO's format, or no object is left.
        ParameterError: A bad override.
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
    """An annotation file by its ids.

    Attributes:
        images: Entry by image id.
        names: Category name by category id.
        annotations: Entries by image id.
        unusable: Annotations that belong nowhere.
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
    """The keys that an entry lacks; ids that are neither numbers nor texts count as lacking."""
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
    """(height, width) of an entry."""
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
    """Entries by id, and the ids that stand for different things, as merged files have them."""
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
    """Why an annotation belongs to no image or category, "" if it does."""
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
    """Reads the annotation file when the first image is asked for."""
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
    """Sorts numbers by value, then texts: files that tools merged may have both."""
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

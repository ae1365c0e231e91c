"""COCO instances (Lin et al., ECCV 2014), https://cocodataset.org, in its own layout."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO

from anomaly_seg_ros.errors import DatasetError, first_line
from training.negatives.indexed import AnnotatedImage, IndexedObjects
from training.negatives.known_classes import KnownClasses
from training.negatives.quality import Instance, Quality

_TREE = "ROOT/annotations/instances_SPLIT.json and ROOT/SPLIT/*.jpg"
# What every entry of the annotation file must have.
_NEEDED = {
    "images": {"id", "file_name", "height", "width"},
    "categories": {"id", "name"},
    "annotations": {"id", "image_id", "category_id"},
}


class CocoObjects(IndexedObjects):
    """The whole, non-occluded objects of one split.

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
        DatasetError: Files are missing, the annotation file is damaged or has no masks, or no
            object is left.
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


def _read(path: Path) -> COCO:
    # The library prints its progress.
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(path))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: not JSON ({error})") from error
    except (AssertionError, KeyError, TypeError) as error:
        raise DatasetError(f"{path}: not in COCO's format ({error!r})") from error
    for part, keys in _NEEDED.items():
        if not coco.dataset.get(part):
            raise DatasetError(f"{path}: no {part}")
        for entry in coco.dataset[part]:
            if not keys <= entry.keys():
                absent = ", ".join(sorted(keys - entry.keys()))
                raise DatasetError(f"{path}: {part}: {entry.get('id', entry)} has no {absent}")
    for annotation in coco.dataset["annotations"]:
        for key, kind, known in (
            ("image_id", "image", coco.imgs),
            ("category_id", "category", coco.cats),
        ):
            if annotation[key] not in known:
                raise DatasetError(
                    f"{path}: annotation {annotation['id']} names {kind} {annotation[key]}, "
                    "which is none"
                )
    return coco


def _check_mask(path: Path, annotation: dict[str, Any], size: tuple[int, int]) -> None:
    """Refuses what pycocotools would decode wrongly or not at all."""
    mask = annotation.get("segmentation")
    where = f"{path}: annotation {annotation['id']}"
    if not mask:
        raise DatasetError(f"{where} has no segmentation; boxes alone do not cut an object out")
    if isinstance(mask, list):
        readable = isinstance(mask[0], list) and len(mask[0]) >= 6
    else:
        readable = (
            isinstance(mask, dict)
            and mask.keys() >= {"size", "counts"}
            and isinstance(mask["size"], list)
            and len(mask["size"]) == 2
        )
    if not readable:
        raise DatasetError(f"{where}: the segmentation is neither polygons nor run lengths")
    if isinstance(mask, dict) and tuple(mask["size"]) != size:
        height, width = mask["size"]
        raise DatasetError(
            f"{where}: a mask of {width}x{height} pixels for an image of {size[1]}x{size[0]}"
        )


def _annotated_images(
    path: Path, classes: KnownClasses, overrides: Mapping[str, str]
) -> Iterator[AnnotatedImage]:
    """Reads the annotation file when the first image is asked for."""
    coco = _read(path)
    classes.check_names((c["name"] for c in coco.cats.values()), overrides)
    names = {key: category["name"] for key, category in coco.cats.items()}
    for key in sorted(coco.imgs, key=_id_order):
        image = coco.imgs[key]
        annotations = sorted(coco.imgToAnns.get(key, ()), key=lambda a: _id_order(a["id"]))
        size = (image["height"], image["width"])
        for annotation in annotations:
            _check_mask(path, annotation, size)
        yield AnnotatedImage(
            path=image["file_name"],
            size=size,
            categories=tuple(names[a["category_id"]] for a in annotations),
            instance=partial(_instance, path, coco, annotations, names),
        )


def _id_order(identity: Any) -> tuple[bool, Any]:
    """Sorts numbers by value, then texts: files that tools merged may have both."""
    is_number = isinstance(identity, int | float)
    return not is_number, identity if is_number else str(identity)


def _instance(
    path: Path,
    coco: COCO,
    annotations: list[dict[str, Any]],
    names: Mapping[int, str],
    k: int,
) -> Instance:
    annotation = annotations[k]
    try:
        mask = coco.annToMask(annotation)
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise DatasetError(
            f"{path}: annotation {annotation['id']}: damaged segmentation ({first_line(error)})"
        ) from error
    return Instance.from_mask(
        mask,
        names[annotation["category_id"]],
        str(annotation["id"]),
        crowd=bool(annotation.get("iscrowd", 0)),
    )

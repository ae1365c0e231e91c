"""Sources of foreign objects, which the target taxonomy does not know."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.taxonomy import Taxonomy
from training.data.negatives.ade20k import Ade20kObjects
from training.data.negatives.coco import CocoObjects
from training.data.negatives.folder import FolderObjects
from training.data.negatives.indexed import IndexedObjects
from training.data.negatives.known_classes import KnownClasses
from training.data.negatives.objects import JoinedObjects, NegativeObject, ObjectSource
from training.data.negatives.quality import Quality

KINDS = ("coco", "ade20k", "folder")

__all__ = [
    "KINDS",
    "Ade20kObjects",
    "CocoObjects",
    "FolderObjects",
    "JoinedObjects",
    "KnownClasses",
    "NegativeObject",
    "ObjectSource",
    "Quality",
    "open_objects",
]


def open_objects(
    kind: str,
    spec: Mapping[str, Any],
    root: Path,
    split: str,
    taxonomy: Taxonomy,
    known: str = "exclude",
    key: str = "mixing.source",
) -> IndexedObjects:
    """Opens a source of objects.

    Args:
        kind: "coco", "ade20k" or "folder".
        spec: Its options: "known_classes", the overrides of :class:`KnownClasses`, and, for a
            folder, "mask_255". Missing, null and empty texts mean the default.
        root: Folder of the data set.
        split: Its split; for a folder, the subfolder of the root.
        taxonomy: Taxonomy of the known classes.
        known: "exclude" selects the unknown objects, "only" the known ones.
        key: Key of ``kind`` in the configuration, for the error.

    Raises:
        DatasetError: The data set is missing, damaged or without a usable object.
        ParameterError: There is no such kind, or an option is invalid.
    """
    overrides = spec.get("known_classes")
    if kind == "coco":
        return CocoObjects(root, split, known, taxonomy, overrides)
    if kind == "ade20k":
        return Ade20kObjects(root, split, known, taxonomy, overrides)
    if kind == "folder":
        mask_255 = spec.get("mask_255") or None
        return FolderObjects(
            root / split, known=known, taxonomy=taxonomy, overrides=overrides, mask_255=mask_255
        )
    raise ParameterError(f"{key}: expected {', '.join(KINDS[:-1])} or {KINDS[-1]}, got {kind!r}")

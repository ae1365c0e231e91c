# SPDX-License-Identifier: Apache-2.0
"""Sources of foreign objects, which the target taxonomy does not know."""

from __future__ import annotations

from pathlib import Path

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.taxonomy import Taxonomy
from training.data.block import ObjectsBlock
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
    block: ObjectsBlock,
    root: Path,
    split: str,
    taxonomy: Taxonomy,
    known: str = "exclude",
) -> IndexedObjects:
    """Opens a source of objects.

    Args:
        block: Its adapter and options.
        root: Folder of the data set.
        split: Its split; for a folder, the subfolder of the root.
        taxonomy: Taxonomy of the known classes.
        known: "exclude" selects the unknown objects, "only" the known ones.

    Raises:
        DatasetError: The data set is missing, damaged or without a usable object.
        ParameterError: There is no such adapter, or an option is invalid.
    """
    kind, overrides = block.adapter, block.known_classes
    if kind == "coco":
        return CocoObjects(root, split, known, taxonomy, overrides)
    if kind == "ade20k":
        return Ade20kObjects(root, split, known, taxonomy, overrides)
    if kind == "folder":
        mask_255 = block.mask_255 or None
        return FolderObjects(
            root / split, known=known, taxonomy=taxonomy, overrides=overrides, mask_255=mask_255
        )
    kinds = f"{', '.join(KINDS[:-1])} or {KINDS[-1]}"
    raise ParameterError(f"adapter: expected {kinds}, got {kind!r}")

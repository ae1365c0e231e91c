# SPDX-License-Identifier: Apache-2.0
"""COCO instances (Lin et al., ECCV 2014), https://cocodataset.org, in their original layout."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from anomaly_seg_ros.errors import DatasetError
from anomaly_seg_ros.taxonomy import Taxonomy, load_taxonomy
from training.data.cache import files_state
from training.data.negatives.coco_file import CocoFile
from training.data.negatives.indexed import IndexedObjects
from training.data.negatives.known_classes import KnownClasses
from training.data.negatives.quality import Quality

_TREE = "ROOT/annotations/instances_SPLIT.json and ROOT/SPLIT/*.jpg"


class CocoObjects(IndexedObjects):
    """The complete, non-occluded objects of one split.

    Unusable annotations are left out and counted by fault: the segmentation is missing (a box
    alone is not enough) or damaged, or the image or category is not listed, or listed twice with
    different content.

    Args:
        root: Folder with annotations/ and the image folders.
        split: Split, such as "train2017".
        known: "exclude" or "only", see :class:`IndexedObjects`.
        taxonomy: Taxonomy of the known classes; by default, the package's own default.
        overrides: Changes to the table of known classes, see :class:`KnownClasses`.
        quality: Rules for complete objects.
        cache_mib: Cache of decoded objects, in MiB over all loader processes.

    Raises:
        DatasetError: Files are missing or do not match the annotations, the annotation file is
            damaged or not in COCO's format, or no object is left.
        ParameterError: An override is invalid, or the taxonomy needs some.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train2017",
        known: str = "exclude",
        taxonomy: Taxonomy | None = None,
        overrides: Mapping[str, str] | str | None = None,
        quality: Quality | None = None,
        cache_mib: float = 64.0,
    ) -> None:
        annotations = Path(root) / "annotations" / f"instances_{split}.json"
        folder = Path(root) / split
        if not annotations.is_file():
            raise DatasetError(f"{annotations}: no such file; expected {_TREE}")
        if not folder.is_dir():
            raise DatasetError(f"{folder}: no such folder; expected {_TREE}")

        @cache
        def content() -> CocoFile:
            return CocoFile(annotations)

        def names() -> list[str]:
            return list(content().names.values())

        classes = KnownClasses.load(taxonomy or load_taxonomy(), "coco", overrides, names)

        def checked() -> CocoFile:
            classes.check_names(names(), overrides or {})
            return content()

        super().__init__(
            name="coco",
            folder=folder,
            annotations=checked,
            classes=classes,
            known=known,
            quality=quality,
            cache_mib=cache_mib,
            state=files_state([annotations]),
        )

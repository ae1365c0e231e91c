"""Sources of foreign objects, which the target taxonomy does not know."""

from __future__ import annotations

from training.data.negatives.ade20k import Ade20kObjects
from training.data.negatives.coco import CocoObjects
from training.data.negatives.folder import FolderObjects
from training.data.negatives.known_classes import KnownClasses
from training.data.negatives.objects import JoinedObjects, NegativeObject, ObjectSource
from training.data.negatives.quality import Quality

__all__ = [
    "Ade20kObjects",
    "CocoObjects",
    "FolderObjects",
    "JoinedObjects",
    "KnownClasses",
    "NegativeObject",
    "ObjectSource",
    "Quality",
]

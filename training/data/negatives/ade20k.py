# SPDX-License-Identifier: Apache-2.0
"""The full ADE20K (Zhou et al., IJCV 2019), release 2021, https://ade20k.csail.mit.edu.

Not the scene parsing subset of 150 classes (ADEChallengeData2016), whose labels have no instances:
two chairs side by side would be one object.

Every object has an amodal mask: 255 where it is visible, 128 where it is occluded. Occlusion is
therefore known, and need not be estimated from neighbouring objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_seg_ros.errors import DatasetError
from anomaly_seg_ros.io.images import read_label
from anomaly_seg_ros.taxonomy import Taxonomy, load_taxonomy
from training.data.cache import files_state
from training.data.negatives.annotations import AnnotatedImage, Unusable, read_annotations
from training.data.negatives.indexed import IndexedObjects
from training.data.negatives.known_classes import KnownClasses
from training.data.negatives.quality import ABSENT, DAMAGED, OTHER_SIZE, Instance, Quality

_TREE = (
    "ROOT/images/ADE/SPLIT/SCENE/.../NAME.jpg with NAME.json and NAME/instance_*.png "
    "(ROOT is ADE20K_2021_17_01)"
)
_SEEN, _HIDDEN = 255, 128


class Ade20kObjects(IndexedObjects):
    """The complete, non-occluded objects of one split, without parts of objects.

    Unusable objects (without a mask, or with one of the wrong size or with other values) are left
    out and counted by fault.

    Args:
        root: Folder ``ADE20K_2021_17_01``.
        split: "training" or "validation".
        known: "exclude" or "only", see :class:`IndexedObjects`.
        taxonomy: Taxonomy of the known classes; by default, the package's own default.
        overrides: Changes to the table of known classes, see :class:`KnownClasses`.
        quality: Rules for complete objects.
        cache_mib: Cache of decoded objects, in MiB over all loader processes.

    Raises:
        DatasetError: Files are missing or damaged, or no object is left.
        ImageError: A mask or image is missing or damaged.
        ParameterError: An override is invalid, or the taxonomy needs some.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "training",
        known: str = "exclude",
        taxonomy: Taxonomy | None = None,
        overrides: Mapping[str, str] | str | None = None,
        quality: Quality | None = None,
        cache_mib: float = 64.0,
    ) -> None:
        folder = Path(root) / "images" / "ADE" / split
        annotations = sorted(folder.rglob("*.json"))
        if not annotations:
            raise DatasetError(f"{folder}: no annotations; expected {_TREE}")
        masks = filter(Path.is_dir, (path.with_suffix("") for path in annotations))
        content = _Ade20kFiles(folder, annotations)
        # With 3,000 names, a misspelt override looks like a class that this split does not show.
        classes = KnownClasses.load(
            taxonomy or load_taxonomy(), "ade20k", overrides, content.first_names
        )
        super().__init__(
            name="ade20k",
            folder=folder,
            annotations=lambda: content,
            classes=classes,
            known=known,
            quality=quality,
            cache_mib=cache_mib,
            # The times of the folders of masks tell whether one was added or removed.
            state=files_state(chain(annotations, masks)),
        )


class _Ade20kFiles:
    """Annotations of a split, one file for each image."""

    def __init__(self, folder: Path, paths: list[Path]) -> None:
        self._folder = folder
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> Iterator[AnnotatedImage | Unusable]:
        return _annotated_image(self._paths[index], self._folder)

    def first_names(self) -> set[str]:
        """Names of the objects of the first image, as examples."""
        images = (x for x in self.read(0) if isinstance(x, AnnotatedImage))
        return {name for image in images for name in image.categories}


def _annotated_image(path: Path, folder: Path) -> Iterator[AnnotatedImage | Unusable]:
    # Some raw names, which are not used, are not UTF-8.
    content = read_annotations(path, lenient=True)
    try:
        content = content["annotation"]
        size = (int(content["imsize"][0]), int(content["imsize"][1]))
        entries = list(content["object"])
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise DatasetError(f"{path}: not in ADE20K's format ({error!r})") from error
    objects = []
    for k, entry in enumerate(entries):
        try:
            level, _ = int(entry["parts"]["part_level"]), entry["name"]
        except (KeyError, TypeError, ValueError, OverflowError):
            yield Unusable("incomplete", f"{path.name} #{k}")
            continue
        if level == 0:
            objects.append(entry)
    yield AnnotatedImage(
        path=str(path.with_suffix(".jpg").relative_to(folder)),
        size=size,
        categories=tuple(str(x["name"]) for x in objects),
        instance=partial(_instance, path, objects, size),
    )


def _instance(
    path: Path, objects: list[dict[str, Any]], size: tuple[int, int], k: int
) -> Instance:
    entry = objects[k]
    category, identity = str(entry["name"]), str(entry.get("id", k))
    relative = entry.get("instance_mask")
    if not relative or not isinstance(relative, str):
        return Instance.unusable(category, identity, ABSENT)
    mask = read_label(path.parent / relative)
    if mask.shape != size:
        return Instance.unusable(category, identity, OTHER_SIZE)
    seen, hidden = np.count_nonzero(mask == _SEEN), np.count_nonzero(mask == _HIDDEN)
    if np.count_nonzero(mask) > seen + hidden:
        return Instance.unusable(category, identity, DAMAGED)
    # "yes" is also set where the occluder itself is not annotated.
    share = 1.0 if entry.get("occluded") == "yes" else hidden / max(1, seen + hidden)
    return Instance.from_mask(mask == _SEEN, category, identity, hidden=share)

# SPDX-License-Identifier: Apache-2.0
"""Objects from a plain folder of images with instance masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from anomaly_seg_ros.datasets import Sample, open_dataset
from anomaly_seg_ros.errors import DatasetError
from anomaly_seg_ros.io.images import check_same_size, read_annotated_image, read_label
from anomaly_seg_ros.labels import IGNORE_INDEX, MASK_255_IGNORE, check_mask_255
from anomaly_seg_ros.taxonomy import Taxonomy, load_taxonomy
from training.data.negatives.annotations import AnnotatedImage
from training.data.negatives.indexed import IndexedObjects
from training.data.negatives.known_classes import KnownClasses
from training.data.negatives.quality import Instance, Quality


class FolderObjects(IndexedObjects):
    """``ROOT/images/NAME.{jpg,png,...}`` with ``ROOT/masks/NAME.png``.

    A mask is 8-bit grey: 0 is background, and every other value is one object; a binary mask is
    one object. In a mask with other objects, 255 may be another object or a border to ignore;
    ``mask_255`` says which. All files are read at the start, so bad pairs are found before the
    training.

    Args:
        root: The folder.
        category: Category of all objects.
        known: "exclude" or "only", see :class:`IndexedObjects`.
        taxonomy: Taxonomy of the known classes; by default, the package's own default.
        overrides: Meaning of the category, see :class:`KnownClasses`; by default it is unknown,
            unless it is the name of a class of the taxonomy.
        quality: Rules for complete objects.
        cache_mib: Cache of decoded objects, in MiB over all loader processes.
        mask_255: "anomaly" treats 255 as an object, "ignore" ignores it. None treats it as the
            object of a binary mask, and refuses it in masks with other objects.

    Raises:
        DatasetError: The folder has the wrong layout or no usable object, or a mask holds 255 in
            addition to other objects and ``mask_255`` is not given.
        ImageError: A file is unreadable, or image and mask differ in size.
        ParameterError: An override or ``mask_255`` is invalid.
    """

    def __init__(
        self,
        root: str | Path,
        category: str = "object",
        known: str = "exclude",
        taxonomy: Taxonomy | None = None,
        overrides: Mapping[str, str] | str | None = None,
        quality: Quality | None = None,
        cache_mib: float = 64.0,
        mask_255: str | None = None,
    ) -> None:
        root = Path(root)
        overrides = overrides or {}
        classes = KnownClasses.load(taxonomy or load_taxonomy(), "folder", overrides)
        classes.check_names([category], overrides)
        content = _FolderFiles(root, category, check_mask_255(mask_255))
        super().__init__(
            name="folder",
            folder=root,
            annotations=lambda: content,
            classes=classes,
            known=known,
            quality=quality,
            cache_mib=cache_mib,
        )


class _FolderFiles:
    """Images with their masks."""

    def __init__(self, root: Path, category: str, mask_255: str | None) -> None:
        self._root = root
        self._category = category
        self._mask_255 = mask_255
        self._samples: Sequence[Sample] = list(open_dataset("folder", root))

    def __len__(self) -> int:
        return len(self._samples)

    def read(self, index: int) -> Iterator[AnnotatedImage]:
        sample = self._samples[index]
        path, mask_path = sample.image_path, sample.anomaly_mask_path
        if mask_path is None:
            raise DatasetError(f"{self._root}: no folder masks beside images")
        mask = read_label(mask_path)
        check_same_size(read_annotated_image(path, mask.shape), mask, path, mask_path)
        values = np.unique(mask[mask > 0])
        if values.size and values[-1] == IGNORE_INDEX:
            if self._mask_255 is None and values.size > 1:
                raise DatasetError(
                    f"{mask_path}: holds 255 beside other objects, so it may be an object or a "
                    "border to ignore; say which with mask_255: anomaly or "
                    "mask_255: ignore"
                )
            if self._mask_255 == MASK_255_IGNORE:
                values = values[:-1]
        yield AnnotatedImage(
            path=str(path.relative_to(self._root)),
            size=(mask.shape[0], mask.shape[1]),
            categories=(self._category,) * len(values),
            instance=partial(_instance, mask, values, self._category),
        )


def _instance(mask: np.ndarray, values: np.ndarray, category: str, k: int) -> Instance:
    return Instance.from_mask(mask == values[k], category, str(values[k]))

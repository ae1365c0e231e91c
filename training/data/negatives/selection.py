# SPDX-License-Identifier: Apache-2.0
"""Selects the objects of annotated images, in several processes if there are many."""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache

import cv2

from anomaly_seg_ros.errors import TrainingError
from training.data.negatives.annotations import AnnotatedImage, Annotations, Unusable
from training.data.negatives.index import Drops, SelectedObject
from training.data.negatives.known_classes import UNCLEAR, UNKNOWN, KnownClasses
from training.data.negatives.quality import Quality
from training.data.negatives.run_lengths import RunLengths

KNOWN = ("exclude", "only")
# Images that a process takes at a time. Fewer than some of these are not worth a process.
_SHARE = 250
_FEW = 8 * _SHARE


@dataclass(frozen=True)
class Selection:
    """What is selected from which annotations.

    Attributes:
        annotations: Annotations of the data set.
        classes: Categories that the target taxonomy knows.
        known: "exclude" selects the unknown objects, "only" the known ones.
        quality: Rules for complete objects.
    """

    annotations: Annotations
    classes: KnownClasses
    known: str
    quality: Quality

    def read(self, images: range) -> tuple[list[SelectedObject], Drops]:
        """Selects objects of some images, and records the others."""
        drops = Drops()
        rows = [
            row
            for index in images
            for image in self.annotations.read(index)
            for row in self._objects(image, drops)
        ]
        return rows, drops

    def _objects(self, image: AnnotatedImage | Unusable, drops: Drops) -> Iterator[SelectedObject]:
        if isinstance(image, Unusable):
            drops.add_unusable(image.rule, image.name)
            return
        wanted = [self._wanted(category, drops.counts) for category in image.categories]
        decode = cache(image.instance)
        for k, category in enumerate(wanted):
            if category is None:
                continue
            instance = decode(k)
            if instance.fault:
                drops.add_unusable(instance.fault, f"{image.path} #{instance.identity}")
                continue
            others = (decode(j) for j in range(len(wanted)) if j != k)
            rule = self.quality.broken_rule(instance, others, image.size)
            if rule is not None:
                drops.counts[rule] += 1
                continue
            mask = instance.mask
            code = RunLengths.from_mask(mask).code["counts"]
            box = (*instance.box[:2], *mask.shape)
            yield SelectedObject(image.path, image.size, category, instance.identity, box, code)

    def _wanted(self, category: str, dropped: Counter[str]) -> str | None:
        """Returns the category to report, or None if the object is not wanted."""
        target = self.classes.target(category)
        if target == UNCLEAR:
            dropped["unclear class"] += 1
        elif self.known == "exclude":
            if target == UNKNOWN:
                return category
            dropped["known class"] += 1
        elif target == UNKNOWN:
            dropped["unknown class"] += 1
        else:
            return target
        return None


def select(selection: Selection, name: str) -> tuple[Iterator[SelectedObject], Drops]:
    """Selects objects of all images, in their order.

    Args:
        selection: What to select.
        name: Name of the data set, for the log.

    Returns:
        The objects; and the record of the others, which is filled while they are consumed.

    Raises:
        TrainingError: A process died.
    """
    count = len(selection.annotations)
    shares = [range(i, min(i + _SHARE, count)) for i in range(0, count, _SHARE)]
    processes = min(len(os.sched_getaffinity(0)), len(shares))
    drops = Drops()
    # Processes of a pool, such as loader workers, may have none of their own.
    if count < _FEW or processes < 2 or multiprocessing.current_process().daemon:
        parts = map(selection.read, shares)
    else:
        print(f"{name}: selecting objects of {count} images, in {processes} processes, once")
        parts = _in_processes(selection, shares, processes)

    def rows() -> Iterator[SelectedObject]:
        for part, dropped in parts:
            drops.add(dropped)
            yield from part

    return rows(), drops


def _in_processes(
    selection: Selection, shares: list[range], processes: int
) -> Iterator[tuple[list[SelectedObject], Drops]]:
    # Forked processes share the annotations, which would take longer to send than to use.
    context = multiprocessing.get_context("fork")
    try:
        with ProcessPoolExecutor(processes, context, _begin, (selection,)) as pool:
            yield from pool.map(_read, shares)
    except BrokenProcessPool as error:
        raise TrainingError("a process that selects objects died: too little memory?") from error


_selection: list[Selection] = []


def _begin(selection: Selection) -> None:
    cv2.setNumThreads(0)  # a forked process would wait for threads that it does not have
    gc.freeze()  # visiting the annotations would copy their pages
    _selection[:] = [selection]


def _read(images: range) -> tuple[list[SelectedObject], Drops]:
    return _selection[0].read(images)

# SPDX-License-Identifier: Apache-2.0
"""What the label files of a corpus hold, found out once and cached.

Sampling by class, loss weights and decoys need to know which classes and objects a frame shows
before any frame is decoded for training.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from training.data.cache import cache_path, files_state, store

# Increased when the rules or the arrays change, so that older files are rebuilt.
_VERSION = 2
# Things to cut out are at least so many stored pixels high and wide, and fill this share of their
# box, which leaves out for instance the rest of a car behind a fence.
MIN_SIDE, MIN_FILL = 16, 0.4


@dataclass(frozen=True)
class LabelIndex:
    """Content of a corpus's label files.

    Attributes:
        counts: (N, 256) uint32, pixels of each label in each frame.
        sizes: (N, 2) int32, height and width.
        regions: (M, 8) int32, connected regions of the things, completely inside their frame:
            frame, trainId, top, left, height, width, and row and column of a pixel of the region.
    """

    counts: np.ndarray
    sizes: np.ndarray
    regions: np.ndarray

    @classmethod
    def build(
        cls,
        labels: Callable[[int], np.ndarray],
        count: int,
        things: Sequence[int] = (),
        title: str = "",
    ) -> LabelIndex:
        """Reads all labels.

        Args:
            labels: Reads the (H, W) uint8 labels of frame ``i``.
            count: Number of frames, N.
            things: Labels whose regions to find.
            title: Shown beside the progress; "" shows none.
        """

        def read(position: int) -> tuple[np.ndarray, tuple[int, ...], list[tuple[int, ...]]]:
            label = np.ascontiguousarray(labels(position))
            counts = cv2.calcHist([label], [0], None, [256], [0, 256])[:, 0]
            shown = [thing for thing in things if counts[thing]]
            found = [(position, *region) for region in _regions(label, shown)]
            return counts.astype(np.uint32), label.shape, found

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            rows = pool.map(read, range(count))
            if title:
                rows = tqdm(rows, title, count, unit="frame", delay=1.0)
            counts, sizes, regions = zip(*rows, strict=True)
        flat = [region for frame in regions for region in frame]
        return cls(
            np.array(counts),
            np.array(sizes, np.int32),
            np.array(flat, np.int32).reshape(-1, 8),
        )

    @classmethod
    def cached(
        cls,
        labels: Callable[[int], np.ndarray],
        files: Sequence[Path],
        meaning: Iterable[object],
        things: Sequence[int],
        title: str,
    ) -> LabelIndex:
        """Loads the index from the cache, or builds it and keeps it for later runs.

        Args:
            labels: See :meth:`build`.
            files: Label file of each frame; a change of one of them rebuilds the index.
            meaning: What else the labels depend on, such as tables.
            things: See :meth:`build`.
            title: See :meth:`build`.
        """
        names = "\n".join(map(str, files))
        path = cache_path("labels", repr((_VERSION, *meaning, tuple(things))) + names)
        state = files_state(files)
        if (found := cls._load(path, state)) is not None:
            return found
        index = cls.build(labels, len(files), things, title)
        arrays = {field.name: getattr(index, field.name) for field in fields(cls)}
        needed = sum(array.nbytes for array in arrays.values())
        store(path, lambda file: np.savez(file, state=np.array(state), **arrays), needed)
        return index

    @classmethod
    def _load(cls, path: Path, state: str) -> LabelIndex | None:
        try:
            with np.load(path, allow_pickle=False) as file:
                if str(file["state"]) != state:
                    return None
                return cls(**{field.name: file[field.name] for field in fields(cls)})
        # Missing or damaged; it is rebuilt.
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            return None

    def take(self, frames: range) -> LabelIndex:
        """Index of some of the frames."""
        number = {frame: i for i, frame in enumerate(frames)}
        kept = np.isin(self.regions[:, 0], frames)
        regions = self.regions[kept].copy()
        regions[:, 0] = [number[frame] for frame in regions[:, 0].tolist()]
        return LabelIndex(self.counts[frames], self.sizes[frames], regions)

    def by_class(self, num_classes: int, min_pixels: int = 32) -> list[np.ndarray]:
        """Indices of the frames that show at least ``min_pixels`` pixels of each class."""
        return [np.flatnonzero(self.counts[:, c] >= min_pixels) for c in range(num_classes)]


def _regions(labels: np.ndarray, things: Iterable[int]) -> list[tuple[int, ...]]:
    """Complete regions: (trainId, top, left, height, width, row, column) of each."""
    found = []
    for train_id in things:
        mask = (labels == train_id).view(np.uint8)
        # Components are numbered by blocks of 2 x 2 pixels, so the part begins at even numbers:
        # the order of the regions, which samples are drawn by, is then that of the whole frame.
        x, y, right, bottom = cv2.boundingRect(mask)
        right, bottom, x, y = x + right, y + bottom, x & ~1, y & ~1
        _, parts, stats, _ = cv2.connectedComponentsWithStats(mask[y:bottom, x:right])
        for part in range(1, len(stats)):
            left, top, width, height, area = stats[part].tolist()
            inside = (
                left + x > 0
                and top + y > 0
                and left + x + width < labels.shape[1]
                and top + y + height < labels.shape[0]
            )
            if inside and min(width, height) >= MIN_SIDE and area >= MIN_FILL * width * height:
                first = int(np.flatnonzero(parts[top] == part)[0])
                found.append((train_id, top + y, left + x, height, width, top + y, first + x))
    return found

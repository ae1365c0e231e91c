# SPDX-License-Identifier: Apache-2.0
"""Labelled frames: read from disk when they are needed, the first ones kept in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from anomaly_seg_ros.datasets import Sample
from anomaly_seg_ros.errors import DatasetError
from anomaly_seg_ros.io.images import check_same_size, read_size
from anomaly_seg_ros.labels import ANOMALY, UNKNOWN_ID, MaskConvention
from training.data.label_index import LabelIndex
from training.data.workers import share_of


class Frames(Protocol):
    """Sequence of labelled frames."""

    def __len__(self) -> int: ...

    def name(self, position: int) -> str:
        """Names a frame in messages."""
        ...

    def load(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Reads (H, W, 3) uint8 RGB and (H, W) uint8 labels."""
        ...

    def image(self, position: int) -> np.ndarray:
        """Reads the image alone."""
        ...

    def index(self) -> LabelIndex:
        """What the labels of all frames hold."""
        ...


@dataclass(frozen=True)
class ArrayFrames:
    """Frames in memory.

    Attributes:
        images: (H, W, 3) uint8 RGB arrays.
        labels: (H, W) uint8 arrays.
        things: Labels of countable objects.
    """

    images: Sequence[np.ndarray] = field(repr=False)
    labels: Sequence[np.ndarray] = field(repr=False)
    things: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def name(self, position: int) -> str:
        """See :class:`Frames`."""
        return f"image {position}"

    def load(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`Frames`."""
        return self.images[position], self.labels[position]

    def image(self, position: int) -> np.ndarray:
        """See :class:`Frames`."""
        return self.images[position]

    def index(self) -> LabelIndex:
        """See :class:`Frames`."""
        return LabelIndex.build(self.labels.__getitem__, len(self), self.things)


@dataclass(frozen=True)
class SampleFrames:
    """Frames of a data set.

    Attributes:
        key: Name of the corpus, for messages.
        samples: Samples with labels or, for ``masks``, with anomaly masks.
        table: (256,) uint8 map from the data set's trainIds to the run's; None keeps them.
        things: Labels of countable objects.
        masks: Labels are the anomaly masks: 0 in-distribution, 1 anomaly, 255 ignore.
    """

    key: str
    samples: Sequence[Sample] = field(repr=False)
    table: np.ndarray | None = field(default=None, repr=False)
    things: tuple[int, ...] = ()
    masks: bool = False

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, position: int) -> str:
        """See :class:`Frames`."""
        return self.samples[position].name

    def load(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`Frames`.

        Raises:
            ImageError: A file is missing or damaged, its size differs from the image's, or a label
                is not defined.
        """
        sample, labels = self.samples[position], self.labels(position)
        image = sample.read_image(labels.shape)
        check_same_size(image, labels, sample.image_path, self._file(position))
        return image, labels

    def image(self, position: int) -> np.ndarray:
        """See :class:`Frames`."""
        return self.samples[position].read_image(read_size(self._file(position)))

    def labels(self, position: int) -> np.ndarray:
        """Reads the labels alone, (H, W) uint8 with :data:`UNKNOWN_ID` on anomalies."""
        sample = self.samples[position]
        if self.masks:
            return sample.read_anomaly_mask()
        labels, mask = sample.read_labels(), sample.read_anomaly_mask()
        if self.table is not None:
            labels = cv2.LUT(labels, self.table)
        return labels if mask is None else np.where(mask == ANOMALY, np.uint8(UNKNOWN_ID), labels)

    def index(self) -> LabelIndex:
        """See :class:`Frames`; kept in the cache folder."""
        tables = {
            None if table is None else table.tobytes()
            for sample in self.samples
            for table in (self.table, sample.labels_table, sample.anomaly_mask_table)
        }
        codes = {(repr(sample.code), sample.mask_255) for sample in self.samples}
        meaning = (self.masks, sorted(map(repr, tables)), sorted(map(repr, codes)))
        index = LabelIndex.cached(
            self.labels, self.files(), meaning, self.things, f"indexing {self.key}"
        )
        if self.masks and any(sample.mask_255 is None for sample in self.samples):
            convention = MaskConvention()
            convention.add(np.flatnonzero(index.counts.any(axis=0)).astype(np.uint8))
            convention.check(self.key, remedy="options: {mask_255: anomaly}, or ignore")
        return index

    def files(self) -> list[Path]:
        """The files of all labels or masks.

        Raises:
            DatasetError: A frame has none.
        """
        return [self._file(i) for i in range(len(self))]

    def _file(self, position: int) -> Path:
        sample = self.samples[position]
        path = sample.anomaly_mask_path if self.masks else sample.labels_path
        if path is None:
            wanted = "anomaly mask" if self.masks else "labels"
            raise DatasetError(f"{self.key}: frame {sample.name} has no {wanted}")
        return path


@dataclass(frozen=True)
class SomeFrames:
    """Some of the frames of another sequence.

    Attributes:
        frames: The other sequence.
        chosen: Positions in it.
    """

    frames: Frames
    chosen: range

    def __len__(self) -> int:
        return len(self.chosen)

    def name(self, position: int) -> str:
        """See :class:`Frames`."""
        return self.frames.name(self.chosen[position])

    def load(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`Frames`."""
        return self.frames.load(self.chosen[position])

    def image(self, position: int) -> np.ndarray:
        """See :class:`Frames`."""
        return self.frames.image(self.chosen[position])

    def index(self) -> LabelIndex:
        """See :class:`Frames`."""
        return self.frames.index().take(self.chosen)


class FrameCache:
    """Decoded frames that stay in memory; loader processes have their own and share the limit.

    The first frames that are read stay, up to the limit, and none is replaced: draws are uniform
    within a corpus, so any part of it is hit equally often, and a cache that replaces frames
    would lose each one before it is drawn again.

    Args:
        limit: Bytes of pixels and labels, over all loader processes of this process.
    """

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self._frames: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._bytes = 0

    def load(self, frames: Frames, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Reads a frame of a corpus, from memory if it is there."""
        if position in self._frames:
            return self._frames[position]
        image, labels = frames.load(position)
        if self._bytes + image.nbytes + labels.nbytes <= share_of(self.limit):
            self._bytes += image.nbytes + labels.nbytes
            self._frames[position] = image, labels
        return image, labels

    def image(self, frames: Frames, position: int) -> np.ndarray:
        """Reads the image of a frame, from memory if it is there; it is not kept."""
        found = self._frames.get(position)
        return frames.image(position) if found is None else found[0]

    def __getstate__(self) -> dict[str, object]:
        """Leaves out the frames."""
        return {**self.__dict__, "_frames": {}, "_bytes": 0}

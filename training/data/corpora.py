"""Labelled road scenes in memory, split into training and held-out frames.

Held out are ``cityscapes256/val``, ``camvid/val`` (one continuous drive, whose full-size frames in
``camvid960`` are excluded as well), and every sixth BDD100K frame.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from anomaly_seg_ros.datasets import Sample, open_dataset
from anomaly_seg_ros.errors import DatasetError, ParameterError
from anomaly_seg_ros.labels import ANOMALY, UNKNOWN_ID, MaskConvention

BDD_HELD_OUT = 6
# The 256x256 frames were resized from 2048x1024.
_SQUEEZED = 2.0


@dataclass(frozen=True)
class Corpus:
    """One source of labelled images, decoded into memory.

    Attributes:
        name: Name for logs.
        images: (H, W, 3) uint8 RGB arrays.
        labels: (H, W) uint8 trainIds, with 255 = ignore and :data:`UNKNOWN_ID`; or anomaly masks,
            see :func:`load_corpus`.
        weight: Share of the training samples, relative to the other corpora.
        aspect: True width / height of frames that are stored squeezed; 0 for undistorted ones.
    """

    name: str
    images: list[np.ndarray] = field(repr=False)
    labels: list[np.ndarray] = field(repr=False)
    weight: float = 1.0
    aspect: float = 0.0

    def __len__(self) -> int:
        return len(self.images)

    def squeeze(self, position: int) -> float:
        """True width / stored width of a frame's pixels; 1 if it is not squeezed."""
        height, width = self.labels[position].shape
        return self.aspect * height / width if self.aspect else 1.0

    def by_class(self, num_classes: int, min_pixels: int = 32) -> list[np.ndarray]:
        """Indices of the images that show at least ``min_pixels`` pixels of each class."""
        present = np.array(
            [
                np.bincount(x.ravel(), minlength=256)[:num_classes] >= min_pixels
                for x in self.labels
            ]
        )
        return [np.flatnonzero(present[:, c]) for c in range(num_classes)]


def load_corpus(
    name: str,
    samples: Iterable[Sample],
    weight: float = 1.0,
    aspect: float = 0.0,
    masks: bool = False,
) -> Corpus:
    """Decodes samples into memory.

    Args:
        name: Name for logs and errors.
        samples: Samples of a data set.
        weight: Sampling weight.
        aspect: True width / height of frames that are stored squeezed; 0 keeps the stored shape.
        masks: Use the anomaly masks (0 / 1 / 255) instead of the class labels.

    Raises:
        ImageError: A file is unreadable, or image and label differ in size.
        DatasetError: There are no samples, a sample lacks the labels or mask, or all masks hold
            only 0 and 255 and the meaning of 255 is not given.
    """
    corpus = Corpus(name, [], [], weight, aspect)
    convention = MaskConvention()
    for sample in samples:
        loaded = sample.load()
        label = loaded.anomaly_mask if masks else loaded.labels
        if label is None:
            wanted = "anomaly mask" if masks else "labels"
            raise DatasetError(f"{name}: sample {sample.name} has no {wanted}")
        if masks and sample.mask_255 is None:
            convention.add(label)
        if not masks and loaded.anomaly_mask is not None:
            label = np.where(loaded.anomaly_mask == ANOMALY, np.uint8(UNKNOWN_ID), label)
        corpus.images.append(loaded.image)
        corpus.labels.append(label)
    if not corpus.images:
        raise DatasetError(f"{name}: no samples")
    convention.check(name)
    return corpus


def weighted(corpora: Sequence[Corpus], weights: Mapping[str, float]) -> list[Corpus]:
    """Changes sampling weights.

    Args:
        corpora: Corpora in any order.
        weights: New weights by corpus name; others are kept, and 0 removes a corpus.

    Raises:
        ParameterError: An unknown name, a negative weight, or no corpus left.
    """
    names = [corpus.name for corpus in corpora]
    for name, weight in weights.items():
        if name not in names:
            raise ParameterError(f"corpus_weights: no corpus {name!r}; there are {names}")
        if weight < 0:
            raise ParameterError(f"corpus_weights: {name} has the negative weight {weight}")
    chosen = [replace(c, weight=weights.get(c.name, c.weight)) for c in corpora]
    chosen = [corpus for corpus in chosen if corpus.weight > 0]
    if not chosen:
        raise ParameterError("corpus_weights: every corpus has weight 0")
    return chosen


@functools.lru_cache(maxsize=1)
def training_corpora(data: Path) -> list[Corpus]:
    """Loads all frames that the default model trains on, once per process.

    Args:
        data: Folder of the data sets.
    """
    camvid_val = {sample.name for sample in open_dataset("camvid", data / "camvid", split="val")}
    camvid = [s for part in ("train", "test") for s in _camvid(data, part)]
    camvid960 = [s for s in open_dataset("camvid", data / "camvid960") if s.name not in camvid_val]
    bdd = [s for i, s in enumerate(_bdd(data)) if i % BDD_HELD_OUT]
    return [
        load_corpus("cityscapes256", _cityscapes256(data, "train"), 12, _SQUEEZED),
        load_corpus(
            "cityscapes", open_dataset("cityscapes", data / "cityscapes", split="train"), 1.5
        ),
        load_corpus("camvid", camvid, 1.0),
        load_corpus("camvid960", camvid960, 1.0),
        load_corpus("bdd100k", bdd, 1.5),
    ]


def cityscapes256_val(data: Path, every: int = 1) -> Corpus:
    """Loads the 500 validation frames, squeezed to 256x256, or every n-th of them."""
    samples = _cityscapes256(data, "val")[::every]
    return load_corpus("cityscapes256/val", samples, aspect=_SQUEEZED)


def calibration_corpora(data: Path) -> list[Corpus]:
    """Loads held-out in-distribution frames."""
    return [
        cityscapes256_val(data, every=5),
        load_corpus("bdd100k", _bdd(data)[::BDD_HELD_OUT]),
        load_corpus("camvid/val", _camvid(data, "val")[::2]),
    ]


def unknown_corpus(data: Path) -> Corpus:
    """Loads full-size CamVid frames with masks of things that belong to no Cityscapes class.

    These pixels have no label in training, but some of the frames were trained on.
    """
    return load_corpus("camvid960", open_dataset("camvid", data / "camvid960"), masks=True)


def _cityscapes256(data: Path, split: str) -> list[Sample]:
    return list(open_dataset("folder", data / "cityscapes256", split=split, labels="classes"))


def _camvid(data: Path, split: str) -> list[Sample]:
    return list(open_dataset("camvid", data / "camvid", split=split))


def _bdd(data: Path) -> list[Sample]:
    return list(open_dataset("folder", data / "bdd100k", labels="classes"))

"""Labelled images in memory, for random access by the training stream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from anomaly_seg_ros.datasets import Sample
from anomaly_seg_ros.errors import DatasetError, ParameterError
from anomaly_seg_ros.labels import ANOMALY, UNKNOWN_ID, MaskConvention


@dataclass(frozen=True)
class Corpus:
    """One source of labelled images, decoded.

    Attributes:
        name: For logs.
        images: (H, W, 3) uint8 RGB arrays.
        labels: (H, W) uint8 trainIds, 255 = ignore, :data:`UNKNOWN_ID`; or anomaly masks, see
            :func:`load_corpus`.
        weight: Share of the training samples, relative to the other corpora.
        aspect: True width / height of frames that are stored squeezed; 0 = stored as taken.
    """

    name: str
    images: list[np.ndarray] = field(repr=False)
    labels: list[np.ndarray] = field(repr=False)
    weight: float = 1.0
    aspect: float = 0.0

    def __len__(self) -> int:
        return len(self.images)

    def squeeze(self, position: int) -> float:
        """True width / stored width of the pixels of a frame; 1 where it is stored as taken."""
        height, width = self.labels[position].shape
        return self.aspect * height / width if self.aspect else 1.0

    def by_class(self, num_classes: int, min_pixels: int = 32) -> list[np.ndarray]:
        """Indices of the images that show each class with at least ``min_pixels`` pixels."""
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
        name: For logs and errors.
        samples: Of a data set.
        weight: Sampling weight.
        aspect: True width / height of frames that are stored squeezed; 0 keeps the stored shape.
        masks: Take the anomaly masks (0 / 1 / 255) instead of the class labels.

    Raises:
        ImageError: An unreadable file, or an image and label of different size.
        DatasetError: A sample without the labels asked for, no sample at all, or masks of 0 and
            255 alone where nobody said what 255 means.
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
        corpora: In any order.
        weights: By corpus name; corpora that are not named keep theirs, 0 leaves one out.

    Raises:
        ParameterError: A name that no corpus has, a negative weight, or nothing left.
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

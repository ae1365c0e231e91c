# SPDX-License-Identifier: Apache-2.0
"""Histograms of a score in every image: what intervals over images are computed from."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.io.array_files import DAMAGED, read_npz
from anomaly_seg_ros.labels import ANOMALY, IN_DISTRIBUTION
from anomaly_seg_ros.metrics.exact_counts import to_keys
from training.engine.storage import write_atomically

# Bins of about the same mass: one holds at most this share of the anomalous and of the
# in-distribution pixels of a set, unless a single score does.
_SHARES = (1 / 2000, 1 / 1000)
# Scores that are kept of an image before there are bins.
_MOST_KEYS = 1 << 15
_KINDS = ("positives", "negatives")


@dataclass(frozen=True)
class ImageHistograms:
    """One score on one set.

    Attributes:
        names: Names of the n images.
        positives: (n, m) uint32 anomalous pixels of each image in each bin, scores rising with m.
        negatives: (n, m) uint32 in-distribution pixels.
    """

    names: tuple[str, ...]
    positives: np.ndarray
    negatives: np.ndarray


@dataclass
class ImageScores:
    """Collects the images of one set, for one score."""

    _images: dict[str, list[tuple[np.ndarray, np.ndarray]]] = field(default_factory=dict)

    def add(self, name: str, raw: np.ndarray, mask: np.ndarray) -> None:
        """Counts one image.

        Args:
            name: Name of the image.
            raw: (H, W) float32 scores.
            mask: (H, W) uint8: 0 in-distribution, 1 anomaly, anything else dropped.
        """
        self._images[name] = [
            _thinned(to_keys(raw[mask == kind])) for kind in (ANOMALY, IN_DISTRIBUTION)
        ]

    def finish(self) -> ImageHistograms:
        """Joins neighbouring keys to bins of about the same mass in the whole set."""
        every = [part for image in self._images.values() for part in image]
        keys = np.unique(np.concatenate([keys for keys, _ in every]))
        bins = np.zeros(keys.size, np.int64)
        for kind, share in enumerate(_SHARES):
            mass = np.zeros(keys.size)
            for image in self._images.values():
                mass[np.searchsorted(keys, image[kind][0])] += image[kind][1]
            bins += ((mass.cumsum() - mass) / max(1.0, mass.sum()) / share).astype(np.int64)
        bins = np.unique(bins, return_inverse=True)[1]
        tables = np.zeros((2, len(self._images), int(bins[-1]) + 1 if bins.size else 1), np.uint32)
        for row, image in enumerate(self._images.values()):
            for table, (own, counts) in zip(tables, image, strict=True):
                np.add.at(table[row], bins[np.searchsorted(keys, own)], counts)
        return ImageHistograms(tuple(self._images), tables[0], tables[1])


def _thinned(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct keys and their counts; if there are too many, some neighbours joined.

    The more pixels are above them the more are joined, because each of the first false alarms
    matters to the precision.
    """
    distinct, counts = np.unique(keys, return_counts=True)
    if distinct.size > _MOST_KEYS:
        above = keys.size - counts.cumsum()
        group = (_MOST_KEYS * np.sqrt(above / keys.size)).astype(np.int64)
        first = np.flatnonzero(np.diff(group, prepend=-1))
        counts = np.add.reduceat(counts, first)
        # A group is at the highest of its keys.
        distinct = distinct[np.r_[first[1:], distinct.size] - 1]
    return distinct, counts.astype(np.uint32)


Histograms = Mapping[str, Mapping[str, ImageHistograms]]


def save_histograms(path: Path, histograms: Histograms) -> None:
    """Writes set -> score -> histograms as an ``.npz`` without pickles.

    Raises:
        OutputError: It cannot be written; nothing half-written is left.
    """
    arrays: dict[str, np.ndarray] = {}
    for key, scores in histograms.items():
        for score, table in scores.items():
            arrays[f"{key}.names"] = np.array(table.names, np.str_)
            arrays |= {f"{key}.{score}.{kind}": getattr(table, kind) for kind in _KINDS}
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type] # allow_pickle
    write_atomically(path, lambda file: file.write(content.getvalue()))


def read_histograms(path: Path) -> Histograms:
    """Reads what :func:`save_histograms` wrote.

    Raises:
        ParameterError: The file is missing or damaged.
    """
    try:
        arrays = read_npz(path)
        tables: dict[str, dict[str, ImageHistograms]] = {}
        for name in arrays:
            if name.endswith(f".{_KINDS[0]}"):
                key, score, _ = name.split(".")
                names = tuple(arrays[f"{key}.names"].tolist())
                counts = (arrays[f"{key}.{score}.{kind}"] for kind in _KINDS)
                tables.setdefault(key, {})[score] = ImageHistograms(names, *counts)
        return tables
    except DAMAGED as error:
        raise ParameterError(f"{path}: cannot read the images' histograms: {error}") from error

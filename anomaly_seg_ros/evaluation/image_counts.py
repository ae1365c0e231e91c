# SPDX-License-Identifier: Apache-2.0
"""Score counts of single images, for resampling over images (:mod:`metrics.resampling`).

An image's scores are counted by the upper 16 bits of their keys (:mod:`metrics.exact_counts`), a
bfloat16: neighbouring bins differ by 0.8 %. An image fills a few hundred to a few thousand of the
65,536 bins, so only those are kept, together with the image's exact figures.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from anomaly_seg_ros.errors import OutputError
from anomaly_seg_ros.evaluation.plan import NODE
from anomaly_seg_ros.evaluation.results import Run
from anomaly_seg_ros.io.array_files import DAMAGED, read_npz
from anomaly_seg_ros.io.atomic import write_atomically
from anomaly_seg_ros.labels import ANOMALY, IN_DISTRIBUTION
from anomaly_seg_ros.metrics.exact_counts import from_keys, to_keys
from anomaly_seg_ros.metrics.pixel_scores import FrameFigures
from anomaly_seg_ros.metrics.resampling import FIGURES
from anomaly_seg_ros.metrics.threshold_counts import FIRST_AT_LEAST

_KINDS = {"positives": ANOMALY, "negatives": IN_DISTRIBUTION}
_BINS = 1 << 16


@dataclass(frozen=True)
class _Rows:
    """Sparse counts of n images: row i is columns[starts[i]:starts[i + 1]].

    Attributes:
        starts: (n + 1,) int64.
        columns: (N,) whole numbers, rising within a row.
        counts: (N,) uint32.
    """

    starts: np.ndarray
    columns: np.ndarray
    counts: np.ndarray

    @classmethod
    def stack(cls, rows: Iterable[tuple[np.ndarray, np.ndarray]]) -> _Rows:
        rows = list(rows)
        columns = [np.empty(0, np.uint16), *(columns for columns, _ in rows)]
        counts = [np.empty(0, np.uint32), *(counts for _, counts in rows)]
        starts = np.cumsum([0, *(columns.size for columns, _ in rows)], dtype=np.int64)
        return cls(starts, np.concatenate(columns), np.concatenate(counts))

    def row(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        part = slice(self.starts[index], self.starts[index + 1])
        return self.columns[part], self.counts[part]

    def dense(self, width: int) -> np.ndarray:
        """(n, width) int64."""
        table = np.zeros((self.starts.size - 1, width), np.int64)
        table[np.repeat(np.arange(len(table)), np.diff(self.starts)), self.columns] = self.counts
        return table

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        return {
            f"{prefix}.indptr": self.starts,
            f"{prefix}.column": self.columns,
            f"{prefix}.count": self.counts,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], prefix: str) -> _Rows:
        return cls(*(arrays[f"{prefix}.{part}"] for part in ("indptr", "column", "count")))


class ImageCountsCollector:
    """Counts images in any order; mergeable. Takes about 10 kB per image and score."""

    def __init__(self) -> None:
        # score -> image's index -> kind -> (bins, counts)
        self._images: dict[str, dict[int, dict[str, tuple[np.ndarray, np.ndarray]]]] = {}

    def add(self, index: int, score: str, raw: np.ndarray, mask: np.ndarray) -> None:
        """Counts one image.

        Args:
            index: Index of the image in its data set.
            score: Name of the score.
            raw: (H, W) float32 scores.
            mask: (H, W) uint8: 0 in-distribution, 1 anomaly, anything else dropped.
        """
        image = {}
        for kind, value in _KINDS.items():
            keys = to_keys(raw[mask == value]) >> np.uint32(16)
            filled = np.bincount(keys.astype(np.uint16), minlength=_BINS)
            bins = np.flatnonzero(filled)
            image[kind] = bins.astype(np.uint16), filled[bins].astype(np.uint32)
        self._images.setdefault(score, {})[index] = image

    def merge(self, other: ImageCountsCollector) -> None:
        """Adds the images of another collector."""
        for score, images in other._images.items():
            self._images.setdefault(score, {}).update(images)

    def state(self) -> dict[str, np.ndarray]:
        """Everything, as arrays of numbers."""
        arrays = {}
        for score, images in self._images.items():
            arrays[f"{score}.indices"] = np.array(sorted(images), np.int64)
            for kind in _KINDS:
                rows = _Rows.stack(images[index][kind] for index in sorted(images))
                arrays |= rows.arrays(f"{score}.{kind}")
        return arrays

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray]) -> ImageCountsCollector:
        """Restores a collector from its :meth:`state`."""
        collector = cls()
        for name in arrays:
            if not name.endswith(".indices"):
                continue
            score = name.removesuffix(".indices")
            rows = {kind: _Rows.from_arrays(arrays, f"{score}.{kind}") for kind in _KINDS}
            collector._images[score] = {
                index: {kind: rows[kind].row(place) for kind in _KINDS}
                for place, index in enumerate(arrays[name].tolist())
            }
        return collector

    def finish(
        self, names: Mapping[int, str], figures: Mapping[str, Iterable[FrameFigures]]
    ) -> ImageCounts:
        """Returns the counts of all images in the order of their indices.

        Args:
            names: Names by index; images without an anomaly mask are left out.
            figures: Figures of the single images by score.
        """
        indices = sorted(set().union(*self._images.values()))
        order = [names[index] for index in indices]
        tables = {}
        for score, images in self._images.items():
            rows = {kind: [images[index][kind] for index in indices] for kind in _KINDS}
            bins = np.unique(np.concatenate([b for part in rows.values() for b, _ in part]))
            by_name = {frame.name: frame for frame in figures[score]}
            positives, negatives = (
                _Rows.stack((np.searchsorted(bins, b).astype(np.uint16), n) for b, n in part)
                for part in rows.values()
            )
            tables[score] = _Table(
                bins,
                positives,
                negatives,
                {
                    figure: np.array([getattr(by_name[name], figure) for name in order])
                    for figure in ("AP", "AUROC")
                }
                | {"FPR95": np.array([_fpr95(by_name[name]) for name in order])},
            )
        return ImageCounts(tuple(order), tables)


@dataclass(frozen=True)
class _Table:
    bins: np.ndarray
    positives: _Rows
    negatives: _Rows
    figures: dict[str, np.ndarray]


@dataclass(frozen=True)
class ImageCounts:
    """Counts of the scores of each image of a run; read with :meth:`load`.

    Attributes:
        names: Names of the images.
    """

    names: tuple[str, ...]
    _tables: dict[str, _Table] = field(repr=False)

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of the scores."""
        return tuple(self._tables)

    def bin_values(self, score: str) -> np.ndarray:
        """Score in the middle of each filled bin: (m,) float64, rising."""
        keys = (self._tables[score].bins.astype(np.uint32) << np.uint32(16)) + np.uint32(1 << 15)
        return from_keys(keys).astype(np.float64)

    def counts(self, score: str) -> tuple[np.ndarray, np.ndarray]:
        """Anomalous and in-distribution pixels of each image in each bin: (n, m) int64 each."""
        table = self._tables[score]
        return table.positives.dense(table.bins.size), table.negatives.dense(table.bins.size)

    def per_image(self, score: str) -> dict[str, np.ndarray]:
        """Exact AP, AUROC and FPR95 of each image: (n,) float64 fractions, NaN if undefined."""
        return dict(self._tables[score].figures)

    def save(self, path: Path) -> None:
        """Writes an ``.npz`` without pickles.

        Raises:
            OutputError: It cannot be written; nothing half-written is left.
        """
        arrays: dict[str, np.ndarray] = {"names": np.array(self.names, np.str_)}
        for score, table in self._tables.items():
            arrays[f"{score}.bins"] = table.bins
            arrays |= table.positives.arrays(f"{score}.positives")
            arrays |= table.negatives.arrays(f"{score}.negatives")
            arrays |= {f"{score}.{name}": values for name, values in table.figures.items()}
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)  # type: ignore[arg-type] # allow_pickle
        write_atomically(path, content.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> ImageCounts:
        """Reads what :meth:`save` wrote.

        Raises:
            OutputError: It cannot be read or is something else.
        """
        try:
            arrays = read_npz(path)
            scores = [name.removesuffix(".bins") for name in arrays if name.endswith(".bins")]
            tables = {
                score: _Table(
                    arrays[f"{score}.bins"],
                    _Rows.from_arrays(arrays, f"{score}.positives"),
                    _Rows.from_arrays(arrays, f"{score}.negatives"),
                    {name: arrays[f"{score}.{name}"] for name in FIGURES},
                )
                for score in scores
            }
            return cls(tuple(arrays["names"].tolist()), tables)
        except DAMAGED as error:
            raise OutputError(f"cannot read {path}: {error}") from error


def image_counts_path(folder: Path, run: Run) -> Path:
    """Path of a run's image counts."""
    return folder / "images" / f"{run.model}__{run.data}.npz"


def read_image_counts(folder: Path, run: Run) -> ImageCounts | None:
    """Reads the image counts of a run that are stored beside its benchmark.

    Args:
        folder: Folder of the benchmark.
        run: One of its runs.

    Returns:
        None where the file is missing, and for runs through the node: no images are counted
        there, and a file of that name belongs to the same model and data in-process.

    Raises:
        OutputError: The file cannot be read.
    """
    path = image_counts_path(folder, run)
    return ImageCounts.load(path) if run.via != NODE and path.is_file() else None


def _fpr95(frame: FrameFigures) -> float:
    return frame.FPR95[FIRST_AT_LEAST]

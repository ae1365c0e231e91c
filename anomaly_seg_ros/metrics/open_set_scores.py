"""Keeps labelled pixels, so that open-set figures can be counted at a threshold found later.

A threshold that comes from other folds (:mod:`cross_fold`) is known only after they were seen.
This way takes one pass over the data: every labelled pixel's score and its pair of true and
predicted class are kept, six bytes a pixel, in memory up to a limit and then on disk. The other
way is :class:`~anomaly_seg_ros.metrics.open_set_iou.OpenSetConfusion` in a second pass; both give
the same digits.

Histograms of the scores for each of the (K + 1)^2 pairs would do as well, but take up to 256 KiB
for each of a thousand ranges of scores in each pair: more than the pixels themselves.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from anomaly_seg_ros.metrics.exact_counts import DEFAULT_MEMORY_LIMIT, ExactCounts
from anomaly_seg_ros.metrics.open_set_iou import (
    OpenSetConfusion,
    checked_num_classes,
    labelled_pairs,
)
from anomaly_seg_ros.metrics.score_keys import to_keys

_RECORD = np.dtype([("pair", "<u2"), ("score", "<f4")])
_RECORDS_AT_ONCE = 1 << 22


class OpenSetScores:
    """Keeps what is needed to count at any threshold; exact, one pass, mergeable.

    Args:
        num_classes: K, of known classes, at most 254.
        memory_limit: Bytes of pixels kept in memory; beyond it they go to a temporary file.
        spill_folder: Where that file goes; the system's temporary folder by default.

    Attributes:
        anomalies: Scores of the anomalous pixels.
        frames: Number of frames.

    Raises:
        ParameterError: A number of classes out of range.
    """

    def __init__(
        self,
        num_classes: int,
        memory_limit: int = DEFAULT_MEMORY_LIMIT,
        spill_folder: str | Path | None = None,
    ) -> None:
        self.num_classes = checked_num_classes(num_classes)
        self.frames = 0
        self.anomalies = ExactCounts(memory_limit, spill_folder)
        # Closed, and its file removed, with this object.
        self._records = tempfile.SpooledTemporaryFile(  # noqa: SIM115
            memory_limit, dir=spill_folder
        )

    def update(
        self,
        labels: np.ndarray,
        mask: np.ndarray,
        prediction: np.ndarray,
        score: np.ndarray,
        name: str = "",
    ) -> None:
        """Adds one frame; see :meth:`.OpenSetConfusion.update`.

        Raises:
            ImageError: The shapes differ, or a labelled pixel's score is not finite.
        """
        self._append(*labelled_pairs(self.num_classes, labels, mask, prediction, score, name))
        self.frames += 1

    def merge(self, other: OpenSetScores) -> None:
        """Adds the pixels of another collection, which stays as it is."""
        if other.num_classes != self.num_classes:
            raise ValueError(f"cannot merge {other.num_classes} into {self.num_classes} classes")
        for pairs, scores in other._chunks():
            self._append(pairs, scores)
        self.frames += other.frames

    def at(self, threshold: float) -> OpenSetConfusion:
        """Counts at a threshold: what one pass of :class:`OpenSetConfusion` gives."""
        matrix = OpenSetConfusion(self.num_classes, threshold)
        for pairs, scores in self._chunks():
            matrix.count(pairs, scores)
        matrix.frames = self.frames
        return matrix

    def state(self) -> dict[str, np.ndarray]:
        """Everything, as arrays of numbers that can be saved without pickle."""
        chunks = list(self._chunks())
        return {
            "num_classes": np.array(self.num_classes, np.int64),
            "frames": np.array(self.frames, np.int64),
            "pairs": np.concatenate([np.empty(0, np.uint16), *(pairs for pairs, _ in chunks)]),
            "scores": np.concatenate([np.empty(0, np.float32), *(s for _, s in chunks)]),
        }

    @classmethod
    def from_state(cls, state: dict[str, np.ndarray]) -> OpenSetScores:
        """The collection whose :meth:`state` this is."""
        scores = cls(int(state["num_classes"]))
        scores.frames = int(state["frames"])
        scores._append(state["pairs"], state["scores"])
        return scores

    def _append(self, pairs: np.ndarray, scores: np.ndarray) -> None:
        first_anomalous = self.num_classes * (self.num_classes + 1)
        self.anomalies.add(np.sort(to_keys(scores[pairs >= first_anomalous])))
        records = np.empty(pairs.size, _RECORD)
        records["pair"], records["score"] = pairs, scores
        self._records.seek(0, os.SEEK_END)
        self._records.write(records.tobytes())

    def _chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All pixels: (N,) uint16 pairs and (N,) float32 scores, a part at a time."""
        self._records.seek(0, os.SEEK_END)
        end = self._records.tell()
        step = _RECORDS_AT_ONCE * _RECORD.itemsize
        for start in range(0, end, step):
            self._records.seek(start)
            records = np.frombuffer(self._records.read(min(step, end - start)), _RECORD)
            yield records["pair"].astype(np.uint16), records["score"].astype(np.float32)

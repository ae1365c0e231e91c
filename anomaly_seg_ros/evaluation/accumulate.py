# SPDX-License-Identifier: Apache-2.0
"""The two passes over the frames of a run.

The first pass counts scores (:class:`PixelPass`). Some figures need a threshold that is known only
after it: components use the one with the best F1, open-set figures the one from the other folds.
The second pass (:class:`AlarmPass`) counts at these thresholds, on scores that it computes again:
keeping them would take 8 MB per score and frame of 2048x1024, and the same network gives the same
digits.

Both passes are sums over frames: any split of the frames adds up to the same.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from anomaly_seg_ros.datasets import LoadedSample
from anomaly_seg_ros.errors import OutputError
from anomaly_seg_ros.evaluation.image_counts import ImageCountsCollector
from anomaly_seg_ros.evaluation.object_counts import ObjectCounts, UnitScale
from anomaly_seg_ros.inference.prediction import Prediction
from anomaly_seg_ros.io.array_files import DAMAGED, read_npz
from anomaly_seg_ros.io.safe_yaml_json import read_json
from anomaly_seg_ros.metrics.by_distance import DistanceScores, distance_from_disparity
from anomaly_seg_ros.metrics.components import ComponentScores, MinimumSizes
from anomaly_seg_ros.metrics.confusion import ConfusionMatrix
from anomaly_seg_ros.metrics.open_set_iou import OpenSetConfusion
from anomaly_seg_ros.metrics.pixel_scores import PixelScores
from anomaly_seg_ros.metrics.states import load_state, save_state

_PROGRESS, _COUNTS = "progress.json", "counts.npz"
_Pass = TypeVar("_Pass", bound="FramePass")


@dataclass(frozen=True)
class Needs:
    """What a run measures.

    Attributes:
        scores: Names of the scores.
        num_classes: Number of classes where the labels' classes are the model's, else None.
        memory_limit: Bytes for the counts of all scores.
        spill_folder: Where counts beyond the limit go.
    """

    scores: tuple[str, ...]
    num_classes: int | None
    memory_limit: int
    spill_folder: Path

    @property
    def memory_per_count(self) -> int:
        """Bytes for each kind of pixel of one score; counts by distance may take as much again."""
        return max(1 << 12, self.memory_limit // (2 * len(self.scores)))


@dataclass(frozen=True)
class Decisions:
    """Thresholds of the second pass, in the scores' own units.

    Attributes:
        components: Thresholds of the component figures by score.
        sizes: Smallest components that count; None without components.
        open_set: Thresholds of the open-set figures by score and fold; fold "" covers all folds
            that are not named.
        threshold_from: Source of ``open_set``: ``folds`` or ``calibration``.
        objects: :class:`UnitScale` of the object figures by score; they need ``sizes``.
    """

    components: dict[str, float] = field(default_factory=dict)
    sizes: tuple[int, int] | None = None
    open_set: dict[str, dict[str, float]] = field(default_factory=dict)
    threshold_from: str = ""
    objects: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)

    @property
    def any(self) -> bool:
        """Whether the second pass has anything to count."""
        return bool(self.components or self.open_set or self.objects)


class FramePass(ABC):
    """Sums over frames, and a record of which frames they cover.

    Attributes:
        done: Names of the counted frames by index.
        seconds: Time that they took.
    """

    def __init__(self) -> None:
        self.done: dict[int, str] = {}
        self.seconds = 0.0

    @abstractmethod
    def add(self, index: int, sample: LoadedSample, prediction: Prediction) -> None:
        """Adds one frame.

        Raises:
            ImageError: Sizes that differ, or scores that are not finite.
        """

    @abstractmethod
    def empty(self: _Pass) -> _Pass:
        """Returns a pass of the same kind without frames."""

    @abstractmethod
    def merge(self: _Pass, other: _Pass) -> None:
        """Adds the frames of another pass."""

    @abstractmethod
    def write(self, folder: Path) -> dict[str, np.ndarray]:
        """Writes the parts with files of their own into a folder; returns everything else."""

    @abstractmethod
    def read(self, folder: Path, arrays: dict[str, np.ndarray]) -> None:
        """Restores what :meth:`write` wrote and returned; the pass must be empty."""

    def save(self, folder: Path) -> None:
        """Writes everything into a folder that exists."""
        arrays = self.write(folder)
        try:
            with (folder / _COUNTS).open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type] # allow_pickle
            progress = {"done": sorted(self.done.items()), "seconds": self.seconds}
            (folder / _PROGRESS).write_text(json.dumps(progress), encoding="utf-8")
        except OSError as error:
            raise OutputError(f"cannot write {folder}: {error.strerror or error}") from error

    def loaded(self: _Pass, folder: Path) -> _Pass:
        """Returns the pass that :meth:`save` wrote.

        Raises:
            OutputError: It cannot be read.
        """
        other = self.empty()
        other.done, other.seconds = read_progress(folder)
        try:
            other.read(folder, read_npz(folder / _COUNTS))
        except DAMAGED as error:
            raise OutputError(f"cannot read the state {folder}: {error}") from error
        return other


def read_progress(folder: Path) -> tuple[dict[int, str], float]:
    """Reads the frames of a saved pass, by index, and the seconds that they took.

    Raises:
        OutputError: It cannot be read.
    """
    progress = read_json(folder / _PROGRESS, OutputError)
    try:
        done = {int(index): str(name) for index, name in progress["done"]}
        return done, float(progress["seconds"])
    except (LookupError, ValueError, TypeError, OverflowError) as error:
        raise OutputError(f"cannot read the state {folder}: {error}") from error


class PixelPass(FramePass):
    """The first pass: scores of labelled pixels by fold, by image and by distance; closed set.

    Attributes:
        folds: Scores by fold and name; one fold "" where the data set has none.
        distance: Scores by distance, by name; empty without disparity.
        confusion: Closed-set confusion; None where the labels' classes are not the model's.
        images: Counts of single images.
        without_mask: Number of frames without an anomaly mask.
    """

    def __init__(self, needs: Needs) -> None:
        super().__init__()
        self._needs = needs
        self.folds: dict[str, dict[str, PixelScores]] = {}
        self.distance: dict[str, DistanceScores] = {}
        self.confusion = None if needs.num_classes is None else ConfusionMatrix(needs.num_classes)
        self.images = ImageCountsCollector()
        self.without_mask = 0

    def empty(self) -> PixelPass:
        """See :class:`FramePass`."""
        return PixelPass(self._needs)

    def add(self, index: int, sample: LoadedSample, prediction: Prediction) -> None:
        """See :class:`FramePass`."""
        name, mask = sample.name, sample.anomaly_mask
        if mask is None:
            self.without_mask += 1
        else:
            fold = self._fold(sample.fold)
            distance = _distance(sample)
            for score, raw in prediction.scores.items():
                fold[score].update(raw, mask, name)
                self.images.add(index, score, raw, mask)
                if distance is not None:
                    self._distance(score).update(raw, mask, distance, name)
        if self.confusion is not None and sample.labels is not None:
            assert prediction.labels is not None  # noqa: S101 - this pass asks for them
            self.confusion.update(sample.labels, prediction.labels, name)
        self.done[index] = name

    def pooled(self, score: str) -> PixelScores:
        """Returns a score pooled over all folds."""
        parts = [fold[score] for fold in self.folds.values()]
        if len(parts) == 1:
            return parts[0]
        total = self._scores()
        for part in parts:
            total.merge(part)
        return total

    def merge(self, other: PixelPass) -> None:
        """See :class:`FramePass`."""
        for name, scores in other.folds.items():
            fold = self._fold(name)
            for score, pixels in scores.items():
                fold[score].merge(pixels)
        for score, distances in other.distance.items():
            self._distance(score).merge(distances)
        if self.confusion is not None and other.confusion is not None:
            self.confusion.merge(other.confusion)
        self.images.merge(other.images)
        self.without_mask += other.without_mask
        self.done |= other.done
        self.seconds += other.seconds

    def write(self, folder: Path) -> dict[str, np.ndarray]:
        """See :class:`FramePass`."""
        arrays = {
            "without_mask": np.array(self.without_mask),
            "folds": np.array(list(self.folds), np.str_),
        }
        for number, fold in enumerate(self.folds.values()):
            for score, pixels in fold.items():
                save_state(pixels, folder / f"{score}.{number}.state")
        for score, distances in self.distance.items():
            arrays |= _prefixed(f"distance/{score}", distances.state())
        arrays |= _prefixed("images", self.images.state())
        if self.confusion is not None:
            arrays["confusion"] = self.confusion.counts
        return arrays

    def read(self, folder: Path, arrays: dict[str, np.ndarray]) -> None:
        """See :class:`FramePass`."""
        limit, spill = self._needs.memory_per_count, self._needs.spill_folder
        for number, fold in enumerate(arrays["folds"].tolist()):
            self.folds[fold] = {
                score: load_state(folder / f"{score}.{number}.state", limit, spill)
                for score in self._needs.scores
            }
        for score in self._needs.scores:
            if f"distance/{score}/edges_m" in arrays:
                state = _below(f"distance/{score}", arrays)
                self._distance(score).merge(DistanceScores.from_state(state))
        self.images = ImageCountsCollector.from_state(_below("images", arrays))
        if self.confusion is not None:
            self.confusion.counts += arrays["confusion"]
        self.without_mask = int(arrays["without_mask"])

    def _fold(self, name: str) -> dict[str, PixelScores]:
        if name not in self.folds:
            self.folds[name] = {score: self._scores() for score in self._needs.scores}
        return self.folds[name]

    def _scores(self) -> PixelScores:
        return PixelScores(self._needs.memory_per_count, self._needs.spill_folder)

    def _distance(self, score: str) -> DistanceScores:
        if score not in self.distance:
            limit = self._needs.memory_per_count
            self.distance[score] = DistanceScores(memory_limit=limit)
        return self.distance[score]


class AlarmPass(FramePass):
    """The second pass: components and open-set confusion at thresholds from the first.

    Attributes:
        components: Component counts by score.
        open_set: Open-set confusion by score and fold.
        objects: Figures with and without the object stage, by score.
    """

    def __init__(self, decisions: Decisions, num_classes: int | None) -> None:
        super().__init__()
        self._decisions, self._num_classes = decisions, num_classes
        # Without sizes there are no component thresholds, without classes no open-set ones.
        sizes, classes = decisions.sizes or (0, 0), num_classes or 0
        self.components = {
            score: ComponentScores(threshold, MinimumSizes(*sizes))
            for score, threshold in decisions.components.items()
        }
        self.open_set = {
            score: {
                fold: OpenSetConfusion(classes, threshold)
                for fold, threshold in thresholds.items()
            }
            for score, thresholds in decisions.open_set.items()
        }
        self.objects = {
            score: ObjectCounts(UnitScale(*unit), MinimumSizes(*sizes))
            for score, unit in decisions.objects.items()
        }

    def empty(self) -> AlarmPass:
        """See :class:`FramePass`."""
        return AlarmPass(self._decisions, self._num_classes)

    def add(self, index: int, sample: LoadedSample, prediction: Prediction) -> None:
        """See :class:`FramePass`."""
        name, mask, labels = sample.name, sample.anomaly_mask, sample.labels
        if mask is not None:
            for score, components in self.components.items():
                components.update(prediction.scores[score], mask, name)
            for score, objects in self.objects.items():
                objects.update(prediction.scores[score], mask, name)
            if labels is not None:
                for score, folds in self.open_set.items():
                    raw = prediction.scores[score]
                    fold = folds.get(sample.fold, folds.get(""))
                    assert prediction.labels is not None  # noqa: S101 - this pass asks for them
                    if fold is not None:  # without other folds it has no threshold
                        fold.update(labels, mask, prediction.labels, raw, name)
        self.done[index] = name

    def merge(self, other: AlarmPass) -> None:
        """See :class:`FramePass`."""
        for score, components in other.components.items():
            self.components[score].merge(components)
        for score, folds in other.open_set.items():
            for fold, confusion in folds.items():
                self.open_set[score][fold].merge(confusion)
        for score, objects in other.objects.items():
            self.objects[score].merge(objects)
        self.done |= other.done
        self.seconds += other.seconds

    def write(self, folder: Path) -> dict[str, np.ndarray]:
        """See :class:`FramePass`."""
        arrays: dict[str, np.ndarray] = {}
        for score, components in self.components.items():
            arrays |= _prefixed(f"components/{score}", components.state())
        for score, folds in self.open_set.items():
            for number, confusion in enumerate(folds.values()):
                arrays |= _prefixed(f"open_set/{score}/{number}", confusion.state())
        for score, objects in self.objects.items():
            arrays |= _prefixed(f"objects/{score}", objects.state())
        return arrays

    def read(self, folder: Path, arrays: dict[str, np.ndarray]) -> None:
        """See :class:`FramePass`."""
        for score, components in self.components.items():
            state = _below(f"components/{score}", arrays)
            components.merge(ComponentScores.from_state(state))
        for score, folds in self.open_set.items():
            for number, confusion in enumerate(folds.values()):
                state = _below(f"open_set/{score}/{number}", arrays)
                confusion.merge(OpenSetConfusion.from_state(state))
        for score, objects in self.objects.items():
            objects.add_state(_below(f"objects/{score}", arrays))


def merged(empty: _Pass, states: Iterable[Path]) -> _Pass:
    """Returns the sum of saved passes.

    A state whose frames are all in a larger one was already merged into it and is skipped.

    Args:
        empty: An empty pass of the same kind, which receives the sum.
        states: Folders of the saved passes.

    Raises:
        OutputError: A state cannot be read, or two share only a part of their frames.
    """
    known = [(path, set(read_progress(path)[0])) for path in states]
    for path, frames in sorted(known, key=lambda item: len(item[1]), reverse=True):
        if frames <= empty.done.keys():
            continue
        if frames & empty.done.keys():
            raise OutputError(f"{path}: counts frames that other states count; use --fresh")
        empty.merge(empty.loaded(path))
    return empty


def _distance(sample: LoadedSample) -> np.ndarray | None:
    """(H, W) metres, or None without disparity, camera or baseline."""
    camera = sample.camera
    if sample.disparity is None or camera is None or camera.baseline_m is None:
        return None
    return distance_from_disparity(sample.disparity / 256.0, camera.fx, camera.baseline_m)


def _prefixed(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{prefix}/{key}": array for key, array in arrays.items()}


def _below(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    start = f"{prefix}/"
    return {key.removeprefix(start): a for key, a in arrays.items() if key.startswith(start)}

# SPDX-License-Identifier: Apache-2.0
"""Runs a plan: every model on every data set, resumable, in one process or many."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from anomaly_seg_ros.errors import ImageError
from anomaly_seg_ros.evaluation.accumulate import (
    AlarmPass,
    Decisions,
    FramePass,
    Needs,
    PixelPass,
    merged,
    read_progress,
)
from anomaly_seg_ros.evaluation.dumps import check_kind, dump_path, write_dump
from anomaly_seg_ros.evaluation.frames import Frames, open_frames
from anomaly_seg_ros.evaluation.pictures import draw_pictures, pictures_folder
from anomaly_seg_ros.evaluation.plan import IN_PROCESS, NODE, NamedPath, Plan
from anomaly_seg_ros.evaluation.results import (
    FILE_NAME,
    Benchmark,
    Run,
    make_folder,
    read_benchmark,
    write_benchmark,
)
from anomaly_seg_ros.evaluation.scorers import DumpedScorer, ModelScorer, Scorer
from anomaly_seg_ros.evaluation.snapshots import Ranks, Snapshots
from anomaly_seg_ros.evaluation.summary import decide, summarise
from anomaly_seg_ros.inference.prediction import Prediction
from anomaly_seg_ros.io.atomic import write_atomically

_PIXELS, _ALARMS, _DECISIONS = "pixels", "alarms", "decisions.json"
_Pass = TypeVar("_Pass", bound=FramePass)


def run_plan(plan: Plan, ranks: Ranks | None = None) -> Benchmark:
    """Evaluates everything that has not been evaluated yet.

    ``OUT/benchmark.json`` is written after each model and data set; an interrupted run resumes
    from its last saved state.

    Args:
        plan: What to evaluate.
        ranks: The processes that share the frames; by default, this one alone.

    Returns:
        All runs of the output folder, including those of earlier calls.

    Raises:
        AnomalySegError: Anything that the user can fix; finished work is kept.
    """
    ranks = ranks or Ranks()
    if plan.dump is not None:
        check_kind(plan.dump[0])
    data = [open_frames(spec, plan.limit) for spec in plan.data]
    if ranks.is_first:
        make_folder(plan.out)
    path = plan.out / FILE_NAME
    benchmark = read_benchmark(path) if path.is_file() else Benchmark()
    for source, scorer in _scorers(plan, ranks):
        for frames in data:
            job = Job(plan, ranks, scorer, frames, benchmark)
            job.run()
            if plan.via == NODE and scorer.via == IN_PROCESS and ranks.is_first:
                job.run_through_node(source)
    ranks.barrier()
    return benchmark if ranks.is_first else read_benchmark(path)


def _scorers(plan: Plan, ranks: Ranks) -> Iterator[tuple[NamedPath, Scorer]]:
    """Yields each source that the plan names and its scorer, one model in memory at a time."""
    for model in plan.models:
        yield model, ModelScorer(model, plan, ranks.device(plan.segmenter.device))
    for dumped in plan.dumped:
        yield dumped, DumpedScorer(dumped)


@dataclass(frozen=True)
class Job:
    """One model on one data set.

    Attributes:
        plan: The plan that it belongs to.
        ranks: The processes that share its frames.
        scorer: Scores the frames.
        frames: The data.
        benchmark: Receives the figures.
    """

    plan: Plan
    ranks: Ranks
    scorer: Scorer
    frames: Frames
    benchmark: Benchmark

    def run(self) -> None:
        """Evaluates unless that is already done; every process must call this.

        Raises:
            AnomalySegError: See :func:`run_plan`.
        """
        if self.plan.fresh:
            if self.ranks.is_first:
                self._snapshots.clear(configuration=True)
                self._drop_node_run()
            self.ranks.barrier()
        configuration = self._configuration()
        begun = self._snapshots.check_configuration(configuration)
        fingerprint = self._fingerprint() if self.ranks.is_first else ""
        if begun and self.ranks.is_first:
            self._discard_what_is_outdated(fingerprint)
        self.ranks.barrier()
        finished = begun and self._snapshots.is_finished and self._is_published(self.scorer.via)
        self.ranks.barrier()
        if finished:
            return
        if self.ranks.is_first:
            self._snapshots.begin(configuration, fingerprint)
        self._evaluate()

    def run_through_node(self, model: NamedPath) -> None:
        """Adds the figures of the same model in a detector node, unless they exist."""
        out = self.plan.out / "node" / self._file_stem
        if self._is_published(NODE) and not self.plan.fresh:
            return
        # Import ROS only when a node is requested.
        from anomaly_seg_ros.evaluation.dataset_run import run_node

        assert isinstance(self.scorer, ModelScorer)  # noqa: S101 - only these run in-process
        self.benchmark.put(run_node(self.plan, model, self.scorer, self.frames, out))
        write_benchmark(self.benchmark, self.plan.out)

    def _discard_what_is_outdated(self, fingerprint: str) -> None:
        """Starts over if files have changed, or if requested dumps of scores are missing."""
        if not self._snapshots.is_of(fingerprint):
            name = f"{self.scorer.name} on {self.frames.label}"
            tqdm.write(f"{name}: files have changed since; evaluated anew", file=sys.stderr)
            self._snapshots.start_over()
            self._drop_node_run()
        elif self.plan.dump is not None and self._lacks_dumps(*self.plan.dump):
            self._snapshots.start_over()

    def _drop_node_run(self) -> None:
        """Removes figures of a node that no longer belong to the in-process ones beside them."""
        if self.benchmark.drop((self.scorer.name, self.frames.label, NODE)):
            write_benchmark(self.benchmark, self.plan.out)

    def _lacks_dumps(self, kind: str, folder: Path) -> bool:
        """Whether a counted frame has no dump of its scores."""
        whole = self._snapshots.is_finished
        counted = len(self.frames) if whole else len(self._counted(_PIXELS))
        examples = (
            dump_path(folder, kind, self.scorer.name, score, self.frames.label, "frame")
            for score in self.scorer.scores
        )
        return any(len(list(e.parent.glob(f"*{e.suffix}"))) < counted for e in examples)

    def _counted(self, name: str) -> set[int]:
        """Frames that the saved states of a pass count."""
        states = self._snapshots.newest(name)
        return set().union(*(read_progress(path)[0] for path in states))

    def _evaluate(self) -> None:
        has_classes = self.frames.has_labels and self.frames.classes == self.scorer.classes
        needs = Needs(
            self.scorer.scores,
            len(self.frames.classes) if has_classes else None,
            self.plan.memory_limit,
            self._snapshots.folder,
        )
        pixels = self._complete(_PIXELS, PixelPass(needs), labels=has_classes, dump=True)
        sizes = self.plan.component_sizes(self.frames.component_sizes)
        notes: list[str] = []
        decisions = Decisions()
        path = self._snapshots.folder / _DECISIONS
        if self.ranks.is_first:
            decisions, notes = decide(pixels, self.scorer, has_classes, sizes)
            write_atomically(path, json.dumps(dataclasses.asdict(decisions)).encode())
        self.ranks.barrier()
        if not self.ranks.is_first:
            decisions = Decisions(**json.loads(path.read_text(encoding="utf-8")))
        alarms = AlarmPass(decisions, needs.num_classes)
        if decisions.any:
            alarms = self._complete(_ALARMS, alarms, labels=bool(decisions.open_set))
        if self.ranks.is_first:
            run = summarise(pixels, alarms, decisions, self.scorer, self.frames, sizes)
            run.notes += [*notes, *self._class_notes(has_classes)]
            self._publish(run, pixels)

    def _complete(self, name: str, counted: _Pass, labels: bool, dump: bool = False) -> _Pass:
        """Completes a pass: adds the frames that no saved state counts.

        Args:
            name: Name of the pass.
            counted: An empty pass.
            labels: The pass needs predicted labels.
            dump: Write the scores to files if the plan says so.

        Returns:
            On the first process the sum over all frames; on the others their own share.
        """
        states, done = self._snapshots.newest(name), self._counted(name)
        self.ranks.barrier()
        if self.ranks.is_first and states:
            merged(counted, states)
            self._snapshots.save(name, 0, counted, only=True)
        self.ranks.barrier()
        todo = sorted(set(range(len(self.frames))) - done)[self.ranks.rank :: self.ranks.world]
        self._count(name, counted, todo, labels, dump)
        self.ranks.barrier()
        if self.ranks.is_first and self.ranks.world > 1:
            counted = merged(counted.empty(), self._snapshots.newest(name))
            self._snapshots.save(name, 0, counted, only=True)
        self.ranks.barrier()
        return counted

    def _count(
        self, name: str, counted: FramePass, todo: list[int], labels: bool, dump: bool
    ) -> None:
        """Adds frames; saves the state regularly, and at the end even after an error."""
        if not todo:
            return
        bar = tqdm(
            self.frames.load(todo),
            f"{self.scorer.name} on {self.frames.label}: {name}",
            len(todo),
            unit="frame",
            file=sys.stderr,
            disable=not self.ranks.is_first,
        )
        started = saved = time.monotonic()
        # False while a frame is only partly counted: such a state must not be saved.
        whole = True
        try:
            for index, sample in bar:
                prediction = self.scorer(self.frames.label, sample, labels)
                _check_sizes(sample.name, sample.image.shape[:2], prediction)
                if dump:
                    self._dump(sample.name, prediction)
                whole = False
                counted.add(index, sample, prediction)
                whole = True
                now = time.monotonic()
                counted.seconds, started = counted.seconds + now - started, now
                if now - saved > self.plan.save_every:
                    self._snapshots.save(name, self.ranks.rank, counted)
                    saved = time.monotonic()
        finally:
            if whole and counted.done:
                self._snapshots.save(name, self.ranks.rank, counted)

    def _dump(self, frame: str, prediction: Prediction) -> None:
        if self.plan.dump is None:
            return
        kind, folder = self.plan.dump
        for score, raw in prediction.scores.items():
            path = dump_path(folder, kind, self.scorer.name, score, self.frames.label, frame)
            write_dump(path, raw)

    def _publish(self, run: Run, pixels: PixelPass) -> None:
        """Writes pictures, image counts and figures, then removes the states."""
        if pixels.folds:
            figures = {
                score: [f for fold in pixels.folds.values() for f in fold[score].frames or ()]
                for score in self.scorer.scores
            }
            images = pixels.images.finish(pixels.done, figures)
            images.save(self.plan.out / "images" / f"{self._file_stem}.npz")
            best = {name: s.best_F1.threshold for name, s in run.scores.items() if s.best_F1}
            folder = pictures_folder(self.plan.out, run.model, run.data)
            draw_pictures(folder, self.scorer, self.frames, pixels.done, figures, best)
        self.benchmark.put(run)
        write_benchmark(self.benchmark, self.plan.out)
        self._snapshots.finish()

    def _class_notes(self, has_classes: bool) -> list[str]:
        if has_classes or not self.frames.has_labels or self.scorer.classes is None:
            return []
        return ["no mIoU and no open-set figures: the labels' classes are not the model's"]

    def _is_published(self, via: str) -> bool:
        key = self.scorer.name, self.frames.label, via
        return any(run.key == key for run in self.benchmark.runs)

    def _fingerprint(self) -> str:
        return f"{self.frames.fingerprint()} {self.scorer.fingerprint()}"

    def _configuration(self) -> dict[str, Any]:
        return {
            "model": self.scorer.configuration,
            "scores": list(self.scorer.scores),
            "data": self.frames.configuration,
            "components": self.plan.components,
        }

    @property
    def _file_stem(self) -> str:
        return f"{self.scorer.name}__{self.frames.label}"

    @property
    def _snapshots(self) -> Snapshots:
        return Snapshots(self.plan.out / "states" / self._file_stem)


def _check_sizes(name: str, shape: tuple[int, ...], prediction: Prediction) -> None:
    for score, raw in prediction.scores.items():
        if raw.shape != shape:
            raise ImageError(f"frame {name!r}: score {score} is {raw.shape}, its image {shape}")

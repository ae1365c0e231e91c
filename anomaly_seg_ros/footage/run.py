# SPDX-License-Identifier: Apache-2.0
"""Segments pictures, a video or a camera into a folder of pictures, objects and a film."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from anomaly_seg_ros import drawing
from anomaly_seg_ros.checkpoints.loading import resolve_model
from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.errors import ImageError, ParameterError
from anomaly_seg_ros.footage.film import StreamFilm
from anomaly_seg_ros.footage.frame_browser import BrowsedFrame, write_frame_browser
from anomaly_seg_ros.footage.output_folder import (
    DEFAULT_KINDS,
    KINDS,
    OVERLAYS,
    SCORE_STEPS,
    OutputFolder,
    Record,
    score_steps,
)
from anomaly_seg_ros.footage.sources import CAMERA, PICTURES, Frame, Source
from anomaly_seg_ros.inference.options import AUTO, SegmenterOptions
from anomaly_seg_ros.inference.prediction import OutputRequest, UnknownRule
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.io.atomic import file_sha256
from anomaly_seg_ros.objects.regions import Box, ObjectRule, UnknownObject, find_objects
from anomaly_seg_ros.objects.tracker import Tracker, TrackRule
from anomaly_seg_ros.system.stop_request import stop_request

_FRAME_RATE = 10.0  # of pictures and cameras, which state none


@dataclass(frozen=True)
class SegmentOptions:
    """How to segment.

    Attributes:
        model: Name of a shipped model, or a weights file.
        segmenter: How the model runs.
        score: The anomaly score; ``auto`` is the model's default.
        rule: What counts as an unknown object; its threshold is that of the mask, too.
        false_alarms: Wrong objects per frame that the model's calibration allows; None leaves the
            rule's smallest score.
        alpha: Opacity of the class colours in the overlays, [0, 1].
        kinds: What to write, of :data:`~anomaly_seg_ros.footage.output_folder.KINDS`.
        frame_rate: Frames per second of the film; None takes the video's own, or 10.
        independent: Pictures are no sequence: each counts its objects from 1.
        limit: Use only the first frames.
        fresh: Discard an earlier run in the folder.

    Raises:
        ParameterError: A value is out of range.
    """

    model: str = "default"
    segmenter: SegmenterOptions = field(default_factory=SegmenterOptions)
    score: str = AUTO
    rule: ObjectRule = field(default_factory=ObjectRule)
    false_alarms: float | None = None
    alpha: float = 0.45
    kinds: tuple[str, ...] = DEFAULT_KINDS
    frame_rate: float | None = None
    independent: bool = False
    limit: int | None = None
    fresh: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ParameterError(f"alpha must be in [0, 1], got {self.alpha}")
        if self.frame_rate is not None and not 0 < self.frame_rate <= 1000:
            raise ParameterError(f"fps must be in (0, 1000], got {self.frame_rate}")
        if self.limit is not None and self.limit < 1:
            raise ParameterError(f"limit must be at least 1, got {self.limit}")
        if unknown := set(self.kinds) - set(KINDS):
            raise ParameterError(f"{', '.join(sorted(unknown))}: expected {', '.join(KINDS)}")


@dataclass
class Summary:
    """What came of a run.

    Attributes:
        kind: Of the source.
        frames: Frames in the results, including those kept.
        kept: Frames that an earlier run had finished.
        with_objects: Frames with an unknown object.
        objects: Unknown objects; one that is followed over frames counts once.
        unreadable: Frames that could not be read.
        dropped: Frames of a camera that nobody had time for.
        notes: What else was wrong with the input.
        seconds: Time it took, without loading the model.
        stopped: The user ended it early.
    """

    kind: str
    frames: int = 0
    kept: int = 0
    with_objects: int = 0
    objects: int = 0
    unreadable: int = 0
    dropped: int = 0
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    stopped: bool = False

    @property
    def is_partial(self) -> bool:
        """Whether something of the input is missing in the results."""
        return bool(self.unreadable or self.notes)

    def __str__(self) -> str:
        """One line for people."""
        what = "picture" if self.kind == PICTURES else "frame"
        parts = [_count(self.objects, "unknown object") + f" in {self.with_objects} of them"]
        if self.unreadable:
            parts.append(f"{self.unreadable} unreadable")
        if self.dropped:
            parts.append(f"{self.dropped} dropped")
        if self.kept:
            parts.append(f"{self.kept} done before")
        new = self.frames - self.kept
        took = f" in {self.seconds:.1f} s ({new / self.seconds:.1f}/s)" if new else ""
        return f"{_count(self.frames, what)}{took}: {', '.join(parts)}"


def segment(source: Source, out: Path, options: SegmentOptions) -> Summary:
    """Segments a source into a folder.

    Pictures that an earlier run with the same settings finished are not done again. A video or a
    camera that is stopped keeps what it has; pictures that are stopped go on at the next call.

    Raises:
        AnomalySegError: Anything that the user can fix; what is finished stays.
    """
    resumes = source.kind == PICTURES
    settings = _settings(source, options)
    folder = OutputFolder(out, options.kinds, settings, resumes, options.fresh)
    if resumes and options.limit is None:
        listed = list(source.frames(lambda: False))
        if (done := folder.complete(listed)) is not None:
            return _summary(source, done, _is_independent(source, options), kept=len(done))
    segmenter = Segmenter.load(options.model, options.segmenter)
    run = _Run(source, folder, options, segmenter)
    try:
        return run()
    finally:
        folder.close()


class _Run:
    """The loop over the frames, and what it carries from one to the next."""

    def __init__(
        self, source: Source, folder: OutputFolder, options: SegmentOptions, segmenter: Segmenter
    ) -> None:
        self._source, self._folder, self._options = source, folder, options
        self._segmenter = segmenter
        self._metadata = segmenter.metadata
        self._score = self._metadata.default_score if options.score == AUTO else options.score
        self._rate = options.frame_rate or source.frame_rate or _FRAME_RATE
        self._independent = _is_independent(source, options)
        self._rule = _calibrated(options, self._metadata, self._score)
        self._tracker = Tracker()
        self._request = OutputRequest(
            confidence=False,
            unknown=UnknownRule(self._score, options.rule.threshold, open_set_labels=True),
        )
        self._records: list[Record] = []
        self._unreadable: list[dict[str, str]] = []
        self._kept = 0

    def __call__(self) -> Summary:
        started = time.monotonic()
        source, limit = self._source, self._options.limit
        total = min(filter(None, (source.count, limit)), default=None)
        unit = "picture" if source.kind == PICTURES else "frame"
        with (
            stop_request() as stopped,
            StreamFilm(self._folder.film, self._rate, source.kind == CAMERA) as film,
            closing(source.frames(stopped)) as frames,
            tqdm(None, "segmenting", total, unit=unit, file=sys.stderr) as bar,
        ):
            for index, frame in enumerate(islice(frames, limit)):
                try:
                    film.add(self._one(frame, index), frame.time_s)
                except ImageError as error:
                    self._unreadable.append({"name": frame.name, "reason": str(error)})
                    bar.write(f"unreadable: {error}", file=sys.stderr)
                bar.update()
                if stopped():
                    break
            done = len(self._records) + len(self._unreadable)
            stopped_early = stopped() and source.kind != CAMERA and done != total
            if stopped_early and (source.kind == PICTURES or not self._records):
                bar.write(f"stopped after {done} of {total} {unit}s", file=sys.stderr)
                raise KeyboardInterrupt
            if not self._records:
                first = self._unreadable[0]["reason"] if self._unreadable else "no frame"
                raise ImageError(f"{source.name}: nothing could be read; the first: {first}")
        summary = _summary(source, self._records, self._independent, self._kept)
        summary.unreadable, summary.stopped = len(self._unreadable), stopped_early
        summary.seconds = time.monotonic() - started
        if self._folder.film is not None:
            write_frame_browser(
                self._folder.film,
                Path(source.name).name,
                str(summary),
                self._rate,
                _browsed(self._records, self._rate),
                {_KNOWN: "#00e5ff"},
            )
        self._folder.finish(self._document())
        return summary

    def _one(self, frame: Frame, index: int) -> np.ndarray:
        """Segments a frame, or takes what an earlier run made of it; returns the overlay."""
        seconds = index / self._rate if frame.time_s is None else frame.time_s
        record = self._folder.kept(frame)
        # Ids depend on all frames before: after a new one, the old ones may be others.
        if record is not None and (self._independent or self._kept == len(self._records)):
            with suppress(ImageError):  # a damaged overlay is made again
                overlay = self._folder.overlay_of(frame) if self._folder.film else _NOTHING
                boxes = [Box(*found["box"]) for found in record["objects"]]
                self._follow([UnknownObject(box, 0, 0.0, 0.0, _NOTHING) for box in boxes], seconds)
                self._records.append(record)
                self._kept += 1
                return overlay
        image = frame.read()
        prediction = self._segmenter.segment([image], self._request)[0]
        labels, unit, mask = prediction.labels, prediction.unit_score, prediction.mask
        open_labels = prediction.open_set_labels
        assert labels is not None  # noqa: S101 - requested, as are the others
        assert unit is not None  # noqa: S101
        assert mask is not None  # noqa: S101
        assert open_labels is not None  # noqa: S101
        objects = find_objects(unit, self._rule, labels)
        ids = self._follow(objects, seconds)
        # One that is seen for the first time may be noise.
        known = [(number, found) for number, found in zip(ids, objects, strict=True) if number]
        overlay = drawing.mark_objects(
            drawing.overlay(image, labels, self._metadata.palette, self._options.alpha, mask),
            [found.box for _, found in known],
            [f"#{number}  {found.score:.2f}" for number, found in known],
        )
        record = {
            "name": frame.name,
            **({} if frame.file is None else {"file": list(frame.file)}),
            **({} if frame.time_s is None else {"time_s": frame.time_s}),
            "height": image.shape[0],
            "width": image.shape[1],
            "unknown_share": round(float(np.count_nonzero(mask) / mask.size), 6),
            "objects": [
                self._described(number, unknown)
                for number, unknown in zip(ids, objects, strict=True)
            ],
        }
        maps = {
            OVERLAYS: overlay,
            "masks": mask,
            "scores": score_steps(unit),
            "labels": open_labels,
        }
        self._folder.write(record, maps)
        self._records.append(record)
        return overlay

    def _follow(self, objects: Sequence[UnknownObject], seconds: float) -> list[int | None]:
        """The id of each object; None for one that is seen for the first time."""
        tracker = Tracker(TrackRule(birth=1)) if self._independent else self._tracker
        ids = {id(found.unknown): found.id for found in tracker.update(objects, seconds)}
        return [ids.get(id(unknown)) for unknown in objects]

    def _described(self, number: int | None, unknown: UnknownObject) -> dict[str, Any]:
        return {
            "id": number,
            "box": list(unknown.box),
            "area": unknown.area,
            "score": round(unknown.score, 4),
            "peak": round(unknown.peak, 4),
            "class": self._metadata.classes[unknown.class_id],
            "class_share": round(unknown.class_share, 4),
        }

    def _document(self) -> dict[str, Any]:
        calibration = self._metadata.calibration_of(self._score)
        return {
            "input": {
                "kind": self._source.kind,
                "frame_rate": self._rate,
                "dropped": self._source.dropped,
                "unreadable": self._unreadable,
                "notes": self._source.notes,
            },
            "model": {
                "name": self._metadata.name,
                "classes": list(self._metadata.classes),
                "score": self._score,
                "min_object_score": self._rule.min_score,
                "raw_threshold": calibration.threshold,
                "unit_scale": calibration.scale,
                "device": str(self._segmenter.device),
                "backend": self._segmenter.backend,
                "precision": self._segmenter.precision,
            },
            "score_maps": f"score = value / {SCORE_STEPS}, in [0, 1], 0.5 at raw_threshold",
            "frames": self._records,
        }


_KNOWN = "unknown objects"
_NOTHING = np.zeros((0, 0), bool)


def _settings(source: Source, options: SegmentOptions) -> dict[str, Any]:
    """Everything that the results depend on."""
    path = resolve_model(options.model)
    return {
        "input": source.name,
        "model": {"name": str(options.model), "sha256": file_sha256(path)},
        "score": options.score,
        "objects": asdict(options.rule),
        "false_alarms": options.false_alarms,
        "alpha": options.alpha,
        "fps": options.frame_rate,
        "independent": options.independent,
        "network": asdict(options.segmenter),
    }


def _calibrated(options: SegmentOptions, metadata: ModelMetadata, score: str) -> ObjectRule:
    """The rule, with the smallest score for the wished rate of false alarms.

    Raises:
        ParameterError: The model's objects were not calibrated, or not for this rule and rate.
    """
    rule, rates = options.rule, metadata.object_rates
    if options.false_alarms is None:
        return rule
    if rates is None:
        raise ParameterError(
            f"false alarms: model {metadata.name!r} was not calibrated for objects; set the "
            "smallest score instead, or run training.calibrate"
        )
    return replace(rule, min_score=rates.min_score_for(options.false_alarms, score, rule))


def _browsed(records: Sequence[Record], frame_rate: float) -> list[BrowsedFrame]:
    """The frames for the page; bars show the unknown part of the picture."""
    largest = max(record["unknown_share"] for record in records) or 1.0
    frames = []
    for index, record in enumerate(records):
        objects = record["objects"]
        known = [f"#{one['id']} {one['score']:.2f}" for one in objects if one["id"]]
        frames.append(
            BrowsedFrame(
                record["name"],
                ", ".join(known) or "no unknown object",
                record.get("time_s", index / frame_rate),
                record["unknown_share"] / largest,
                _KNOWN if known else "",
            )
        )
    return frames


def _is_independent(source: Source, options: SegmentOptions) -> bool:
    alone = 1 in (source.count, options.limit)
    return source.kind == PICTURES and (options.independent or alone)


def _summary(source: Source, records: Sequence[Record], independent: bool, kept: int) -> Summary:
    found = [{o["id"] for o in record["objects"] if o["id"]} for record in records]
    return Summary(
        kind=source.kind,
        frames=len(records),
        kept=kept,
        with_objects=sum(map(bool, found)),
        objects=sum(map(len, found)) if independent else len(set().union(*found)),
        dropped=source.dropped,
        notes=list(source.notes),
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"

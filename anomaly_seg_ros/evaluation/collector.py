# SPDX-License-Identifier: Apache-2.0
"""Gathers everything an evaluation reports, frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_seg_ros import drawing
from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.errors import ImageError
from anomaly_seg_ros.evaluation.pictures import WorstFrames
from anomaly_seg_ros.evaluation.plan import BAG, IN_PROCESS, NODE
from anomaly_seg_ros.evaluation.plots import ScoreCurves
from anomaly_seg_ros.evaluation.report import write_run_report
from anomaly_seg_ros.evaluation.results import (
    FlickerFigures,
    Latency,
    NodeFigures,
    ObjectFigures,
    Replay,
    Run,
    metrics_json,
)
from anomaly_seg_ros.evaluation.sentence import opening_sentence
from anomaly_seg_ros.evaluation.summary import (
    closed_set_figures,
    percent,
    pixel_counts,
    pooled_figures,
)
from anomaly_seg_ros.footage.film import OverlayVideo, compose_frame, letterbox
from anomaly_seg_ros.footage.frame_browser import BrowsedFrame, write_frame_browser
from anomaly_seg_ros.inference.prediction import Prediction
from anomaly_seg_ros.io.atomic import write_atomically
from anomaly_seg_ros.metrics.confusion import ConfusionMatrix
from anomaly_seg_ros.metrics.flicker import Flicker
from anomaly_seg_ros.metrics.object_detection import DetectionCounts, ObjectDetections
from anomaly_seg_ros.metrics.pixel_scores import PixelScores
from anomaly_seg_ros.objects.regions import ObjectRule, UnknownObject, find_objects

_MISSED, _ALARM, _SEEN = "missed", "false alarm", "unknown objects, no ground truth"
_MARKS = {_MISSED: "#ffb020", _ALARM: "#ff6b6b", _SEEN: "#00e5ff"}
_FOREIGN_LABELS = "no mIoU: the labels' classes are not the model's"


class Collector:
    """Pools pixels, counts frames, keeps the worst pictures, and writes the results.

    Args:
        metadata: The model's metadata.
        score: Name of the score that the node publishes and the pictures show.
        threshold: Threshold on the unit scale.
        alpha: Opacity of the class colours in the overlay.
        video: Where to write the overlay video, or None.
        frame_rate: Frames per second of the video.
        label_classes: Classes of the ground truth in trainId order; None: the model's.
    """

    def __init__(
        self,
        metadata: ModelMetadata,
        score: str,
        threshold: float = 0.5,
        alpha: float = 0.45,
        video: Path | None = None,
        frame_rate: float = 10.0,
        label_classes: Sequence[str] | None = None,
    ) -> None:
        self.sent = self.scored = self.lost = 0
        self.latencies: list[float] = []
        self.notes: list[str] = []
        self._metadata = metadata
        self._score = score
        self._threshold = threshold
        self._in_process: dict[str, PixelScores] = {}
        self._from_node = PixelScores()
        self._difference = float("nan")
        self._rule = ObjectRule(threshold=threshold, min_score=threshold)
        self._flicker = Flicker()
        self._objects, self._objects_seen = ObjectDetections(self._rule.min_area), 0
        self._confusion = ConfusionMatrix(len(metadata.classes))
        self._classes_fit = label_classes is None or tuple(label_classes) == metadata.classes
        self._labels_left_out = False
        self._alpha = alpha
        self._worst = WorstFrames(threshold, metadata.palette, alpha)
        self._video_path = video
        self._frame_rate = frame_rate
        self._video: OverlayVideo | None = None
        self._frames: list[BrowsedFrame] = []
        self._video_size = (0, 0)

    def add(
        self,
        name: str,
        image: np.ndarray,
        mask: np.ndarray | None,
        target: np.ndarray | None,
        labels: np.ndarray,
        unit_score: np.ndarray,
        in_process: Prediction | None,
    ) -> None:
        """Adds one scored frame.

        Args:
            name: The frame's name.
            image: (H, W, 3) uint8 RGB.
            mask: (H, W) uint8 ground truth, 0 / 1 / 255, or None.
            target: (H, W) uint8 ground-truth trainIds, or None.
            labels: (H, W) uint8 predicted trainIds, the node's where a node takes part.
            unit_score: (H, W) float32 in [0, 1], the node's where a node takes part.
            in_process: Raw scores of the same frame without a node, or None.

        Raises:
            ImageError: Sizes that differ.
        """
        for what, array in (("anomaly mask", mask), ("class labels", target)):
            if array is not None and array.shape != image.shape[:2]:
                raise ImageError(
                    f"frame {name}: its {what} are {array.shape}, its image {image.shape[:2]}"
                )
        self.scored += 1
        if mask is not None:
            self._from_node.update(unit_score, mask, name)
        if in_process is not None:
            for score, raw in in_process.scores.items():
                if mask is not None:
                    self._in_process.setdefault(score, PixelScores()).update(raw, mask, name)
            expected = self._metadata.calibration_of(self._score).to_unit(
                in_process.scores[self._score]
            )
            difference = float(np.abs(expected - unit_score).max())
            self._difference = float(np.nanmax([self._difference, difference]))
        if target is not None and self._classes_fit:
            self._confusion.update(target, labels)
        self._labels_left_out |= target is not None and not self._classes_fit
        self._flicker.update(unit_score >= np.float32(self._threshold), labels)
        objects = find_objects(unit_score, self._rule)
        self._objects_seen += len(objects)
        counts = None
        if mask is not None:
            own = ObjectDetections(self._rule.min_area)
            own.update(objects, mask)
            counts = own.at(self._rule.min_score)
            self._objects.merge(own)
        self._frames.append(_browsed(name, objects, counts, len(self._frames) / self._frame_rate))
        self._worst.consider(name, image, labels, unit_score, mask, objects)
        if self._video_path is not None:
            self._add_to_video(self._video_path, image, labels, unit_score)

    def _add_to_video(
        self, path: Path, image: np.ndarray, labels: np.ndarray, score: np.ndarray
    ) -> None:
        unknown = score >= self._threshold
        overlay = drawing.overlay(image, labels, self._metadata.palette, self._alpha, unknown)
        picture = compose_frame(image, overlay, drawing.heat_map(score))
        if self._video is None:
            self._video_size = picture.shape[:2]
            video = OverlayVideo(path, self._video_size, self._frame_rate)
            self._video = video.__enter__()
        # A film has one size; frames of another get bars.
        self._video.write(letterbox(picture, self._video_size))

    def close(self, failed: bool = False) -> None:
        """Finishes the video, or discards it after a failure."""
        if self._video is not None:
            error = RuntimeError("evaluation failed") if failed else None
            self._video.__exit__(type(error) if error else None, error, None)
            self._video = None

    def result(self, dataset: str, configuration: dict[str, Any], with_node: bool) -> Run:
        """Returns the figures so far.

        Args:
            dataset: Name of the bag's data set, for people.
            configuration: Everything needed to run the same again.
            with_node: The collected labels and unit scores are a node's.
        """
        metrics = {name: pixels.compute() for name, pixels in self._pooled().items()}
        first = next(iter(metrics.values()))
        replay = Replay(self.sent, self.lost, configuration=configuration)
        if with_node:
            own = pooled_figures(self._from_node.compute())
            difference = None if np.isnan(self._difference) else self._difference
            replay.node = NodeFigures(self._score, difference, own.AP, own.AUROC, own.FPR95)
        counts = self._objects.at(self._rule.min_score)
        replay.objects = ObjectFigures(
            self._score,
            self._objects_seen,
            counts.frames,
            counts.targets,
            counts.found,
            counts.false_alarms,
            self._rule.threshold,
            self._rule.min_area,
        )
        if (flicker := self._flicker.compute()).pairs:
            shares = percent(flicker.mask), percent(flicker.labels)
            replay.flicker = FlickerFigures(*shares, flicker.pairs)
        if self.latencies:
            replay.latency_ms = Latency.from_samples(self.latencies)
        notes = [*([first.note] if first.note else []), *self.notes]
        if self._labels_left_out:
            notes.append(_FOREIGN_LABELS)
        return Run(
            model=self._metadata.name,
            dataset=BAG,
            data=dataset,
            via=NODE if with_node else IN_PROCESS,
            frames=self.scored,
            pixels=pixel_counts(first),
            segmentation=closed_set_figures(self._confusion, self._metadata.classes),
            scores={name: pooled_figures(figures) for name, figures in metrics.items()},
            notes=notes,
            replay=replay,
        )

    def _pooled(self) -> dict[str, PixelScores]:
        """By score; without an in-process run (real time), the messages are all there is."""
        return self._in_process or {self._score: self._from_node}

    def write(self, result: Run, folder: Path) -> None:
        """Writes ``metrics.json`` and ``report.html``.

        Raises:
            OutputError: A file cannot be written.
        """
        curves = {name: ScoreCurves.from_scores(own) for name, own in self._pooled().items()}
        colours: dict[str, Sequence[int]] = {
            name: colour.tolist()
            for name, colour in zip(self._metadata.classes, self._metadata.palette, strict=True)
        }
        browser = None
        if self._video_path is not None and self._frames:
            largest = max(frame.value for frame in self._frames) or 1.0
            browser = write_frame_browser(
                self._video_path,
                f"{result.model} on {result.data}",
                opening_sentence(result),
                self._frame_rate,
                [replace(frame, value=frame.value / largest) for frame in self._frames],
                _MARKS,
            ).name
        write_atomically(folder / "metrics.json", metrics_json(result).encode())
        write_run_report(
            result,
            curves,
            self._worst.pictures(),
            self.latencies,
            folder / "report.html",
            class_colours=colours,
            frame_browser=browser,
        )


def _browsed(
    name: str,
    objects: Sequence[UnknownObject],
    counts: DetectionCounts | None,
    seconds: float,
) -> BrowsedFrame:
    """A frame for the page; its bar is the area of its objects, in pixels."""
    area = float(sum(unknown.area for unknown in objects))
    if counts is None:
        mark = _SEEN if objects else ""
        return BrowsedFrame(name, f"{len(objects)} unknown objects", seconds, area, mark)
    mark = _MISSED if counts.found < counts.targets else _ALARM if counts.false_alarms else ""
    told = f"{counts.found} of {counts.targets} found, {counts.false_alarms} false alarms"
    return BrowsedFrame(name, told, seconds, area, mark)

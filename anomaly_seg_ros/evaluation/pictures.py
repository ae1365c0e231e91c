# SPDX-License-Identifier: Apache-2.0
"""The pictures of the reports: the frames where a score does best and worst.

:func:`draw_pictures` picks the frames of a run by their own AP, after the passes, and scores only
these few again. :class:`WorstFrames` sees the frames of a bag once and keeps the best finds and
the worst faults so far.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from anomaly_seg_ros import drawing
from anomaly_seg_ros.datasets import LoadedSample
from anomaly_seg_ros.errors import ImageError, OutputError
from anomaly_seg_ros.evaluation.frames import Frames
from anomaly_seg_ros.evaluation.results import Benchmark
from anomaly_seg_ros.evaluation.scorers import Scorer
from anomaly_seg_ros.inference.prediction import Prediction
from anomaly_seg_ros.io.atomic import write_atomically
from anomaly_seg_ros.io.safe_yaml_json import inside, read_json
from anomaly_seg_ros.metrics.pixel_scores import FrameFigures
from anomaly_seg_ros.objects.regions import UnknownObject

_WORST, _BEST = 2, 1
_PANEL_WIDTH = 320
_ALPHA = 0.45
_CAPTIONS = "captions.json"

FINDS = "Best detections"
FALSE_ALARMS = "Worst false alarms"
MISSES = "Worst misses"
MOST_FLAGGED = "Most flagged frames"

THUMBNAIL_WIDTH = 640


def draw_pictures(
    folder: Path,
    scorer: Scorer,
    frames: Frames,
    names: Mapping[int, str],
    figures: Mapping[str, Sequence[FrameFigures]],
    thresholds: Mapping[str, float],
) -> None:
    """Writes the pictures of one run and removes older ones.

    Args:
        folder: Folder to write them to.
        scorer: Scores the chosen frames again.
        frames: The data.
        names: Names of the frames by index.
        figures: Figures of the frames by score.
        thresholds: By score, the raw score from which a pixel is drawn as an alarm.

    Raises:
        OutputError: A picture cannot be written.
    """
    score = _headline(scorer, thresholds)
    if score is None:
        return
    by_name = {frame.name: frame for frame in figures[score] if frame.is_defined}
    defined = [index for index in sorted(names) if names[index] in by_name]
    ranked = sorted(defined, key=lambda index: by_name[names[index]].AP, reverse=True)
    chosen = dict.fromkeys([*ranked[:_BEST], *ranked[-_WORST:]])
    captions = {}
    for index, sample in frames.load(chosen):
        prediction = scorer(frames.label, sample, scorer.classes is not None)
        place = ranked.index(index) + 1
        file = f"{place:04d}.png"
        captions[file] = (
            f"{sample.name}: {score}, AP {100 * by_name[sample.name].AP:.1f} % "
            f"(place {place} of {len(ranked)})"
        )
        picture = _strip(sample, prediction, score, scorer, thresholds[score])
        content = cv2.imencode(".png", picture[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])[1]
        write_atomically(folder / file, content.tobytes())
    write_atomically(folder / _CAPTIONS, json.dumps(captions, sort_keys=True).encode())
    for stale in folder.glob("*.png"):
        if stale.name not in captions:
            stale.unlink()


def read_pictures(
    benchmark: Benchmark, folder: Path
) -> dict[tuple[str, str], list[tuple[str, bytes]]]:
    """Reads the pictures of all runs: (model, data) -> caption and PNG.

    Args:
        benchmark: The runs.
        folder: Folder that contains ``pictures/``.

    Raises:
        OutputError: A picture cannot be read.
    """
    pictures = {}
    for run in benchmark.runs:
        place = pictures_folder(folder, run.model, run.data)
        if not (place / _CAPTIONS).is_file():
            continue
        captions = read_json(place / _CAPTIONS, OutputError)
        try:
            pictures[run.model, run.data] = [
                (str(caption), inside(place, file).read_bytes())
                for file, caption in captions.items()
            ]
        except (OSError, ValueError, AttributeError) as error:
            raise OutputError(f"cannot read the pictures in {place}: {error}") from error
    return pictures


def pictures_folder(folder: Path, model: str, data: str) -> Path:
    """Folder of a run's pictures."""
    return folder / "pictures" / f"{model}__{data}"


def _headline(scorer: Scorer, thresholds: Mapping[str, float]) -> str | None:
    """The model's default score, or else one that has a threshold."""
    if scorer.default_score in thresholds:
        return scorer.default_score
    return next(iter(thresholds), None)


def _strip(
    sample: LoadedSample, prediction: Prediction, score: str, scorer: Scorer, threshold: float
) -> np.ndarray:
    """Image, alarms, score and ground truth side by side."""
    raw = prediction.scores[score]
    if score in scorer.calibration:
        unit = scorer.calibration[score].to_unit(raw)
    else:  # red is the threshold, as on the unit scale
        reach = float(np.abs(raw - threshold).max()) or 1.0
        unit = ((raw - threshold) / (2 * reach) + 0.5).astype(np.float32)
    mask = sample.anomaly_mask
    assert mask is not None  # noqa: S101 - frames without one have no AP
    labels, palette = prediction.labels, scorer.palette
    if labels is None or palette is None:
        labels, palette = np.full(raw.shape, 255, np.uint8), np.zeros((1, 3), np.uint8)
    scene = drawing.overlay(sample.image, labels, palette, _ALPHA, (mask < 2) & (raw >= threshold))
    panels = (
        sample.image,
        scene,
        drawing.heat_map(unit),
        drawing.anomaly_mask(mask),
    )
    return drawing.beside(*(drawing.fit_width(panel, _PANEL_WIDTH) for panel in panels))


@dataclass
class FramePictures:
    """One row of pictures in a report; all are (H, W, 3) uint8 RGB of the same shape.

    Attributes:
        name: The frame's name.
        image: The input.
        overlay: Class colours and unknown regions over the input.
        heat_map: The anomaly score.
        mask: Ground truth as drawn by :func:`drawing.anomaly_mask`; None without ground truth.
        reason: Heading of the row, such as :data:`FALSE_ALARMS`.
        figure: What is wrong and how much, as a phrase.
    """

    name: str
    image: np.ndarray
    overlay: np.ndarray
    heat_map: np.ndarray
    mask: np.ndarray | None
    reason: str
    figure: str


class WorstFrames:
    """Sees every frame once and keeps small pictures of the worst, and of the best to compare.

    A frame's false alarms are its in-distribution pixels at or above the threshold, its misses
    the anomalous pixels below it. A miss is shown enlarged, around its largest missed object:
    a distant object is a few pixels wide. The best detections are the frames whose flagged and
    anomalous pixels have the highest IoU. Frames without ground truth are ranked by the area that
    is flagged.

    Args:
        threshold: Threshold on the unit score; 0.5 is the calibrated one.
        palette: (K, 3) uint8 RGB class colours.
        alpha: Opacity of the class colours in the overlay.
        keep: Number of frames to keep for each reason.
    """

    def __init__(
        self, threshold: float, palette: np.ndarray, alpha: float = 0.45, keep: int = 3
    ) -> None:
        self._threshold = threshold
        self._palette = palette
        self._alpha = alpha
        self._keep = keep
        # Heaps of (rank, -order, pictures), the lowest rank first; the order breaks ties.
        self._heaps: dict[str, list[tuple[float, int, FramePictures]]] = {
            reason: [] for reason in (FINDS, FALSE_ALARMS, MISSES, MOST_FLAGGED)
        }
        self._seen = 0

    def consider(
        self,
        name: str,
        image: np.ndarray,
        labels: np.ndarray,
        unit_score: np.ndarray,
        mask: np.ndarray | None,
        objects: Sequence[UnknownObject] = (),
    ) -> None:
        """Looks at one frame; its arrays are not kept.

        Args:
            name: The frame's name.
            image: (H, W, 3) uint8 RGB.
            labels: (H, W) uint8 predicted trainIds.
            unit_score: (H, W) float32 in [0, 1].
            mask: (H, W) uint8 ground truth, 0 / 1 / 255, or None.
            objects: Unknown objects, drawn with their scores.

        Raises:
            ImageError: Shapes that do not fit.
        """
        self._seen += 1
        flagged = unit_score >= self._threshold
        draw = _Drawer(
            name, image, labels, unit_score, mask, flagged, objects, self._palette, self._alpha
        )
        if mask is None:
            area = int(flagged.sum())
            phrase = f"{area:,} pixels flagged"
            self._offer(MOST_FLAGGED, area, lambda: draw.whole(MOST_FLAGGED, phrase))
            return
        if mask.shape != unit_score.shape:
            raise ImageError(
                f"frame {name!r}: score is {unit_score.shape}, mask is {mask.shape} (H, W)"
            )
        known, anomalous = mask == 0, mask == 1
        missed = anomalous & ~flagged
        total, misses = int(anomalous.sum()), int(missed.sum())
        alarms = int((flagged & known).sum())

        iou = (total - misses) / max(1, total + alarms)
        found_text = f"{total - misses:,} of {total:,} anomalous pixels found, IoU {iou:.0%}"
        self._offer(FINDS, iou, lambda: draw.whole(FINDS, found_text))

        alarm_text = f"{alarms:,} in-distribution pixels flagged ({_share(alarms, known)})"
        self._offer(FALSE_ALARMS, alarms, lambda: draw.whole(FALSE_ALARMS, alarm_text))

        miss_text = f"{misses:,} anomalous pixels missed ({_share(misses, anomalous)}); enlarged"
        self._offer(MISSES, misses, lambda: draw.enlarged(MISSES, miss_text, missed))

    def pictures(self) -> list[FramePictures]:
        """Rows for the report: detections, false alarms, misses; the most striking first."""
        return [
            row
            for heap in self._heaps.values()
            for _, _, row in sorted(heap, key=lambda entry: entry[:2], reverse=True)
        ]

    def _offer(self, reason: str, rank: float, draw: Callable[[], FramePictures]) -> None:
        """Draws and keeps the frame if it is among the highest ranks so far, and not zero."""
        heap = self._heaps[reason]
        entry = (rank, -self._seen)
        if rank and len(heap) < self._keep:
            heapq.heappush(heap, (*entry, draw()))
        elif heap and entry > heap[0][:2]:
            heapq.heapreplace(heap, (*entry, draw()))


@dataclass
class _Drawer:
    """One frame's arrays, and its rows of thumbnails on demand."""

    name: str
    image: np.ndarray
    labels: np.ndarray
    unit_score: np.ndarray
    mask: np.ndarray | None
    flagged: np.ndarray
    objects: Sequence[UnknownObject]
    palette: np.ndarray
    alpha: float

    def whole(self, reason: str, figure: str) -> FramePictures:
        height, width = self.labels.shape
        return self._row(reason, figure, (slice(0, height), slice(0, width)))

    def enlarged(self, reason: str, figure: str, pixels: np.ndarray) -> FramePictures:
        """A row of the region around the largest connected group of ``pixels``."""
        return self._row(reason, figure, window_around(largest_component(pixels), pixels.shape))

    def _row(self, reason: str, figure: str, window: tuple[slice, slice]) -> FramePictures:
        image, labels = self.image[window], self.labels[window]
        scene = drawing.overlay(image, labels, self.palette, self.alpha, self.flagged[window])
        truth = None if self.mask is None else drawing.anomaly_mask(self.mask[window])
        return FramePictures(
            name=self.name,
            image=_thumbnail(image),
            overlay=self._with_objects(_thumbnail(scene), window),
            heat_map=_thumbnail(drawing.heat_map(self.unit_score[window])),
            mask=None if truth is None else _thumbnail(truth),
            reason=reason,
            figure=figure,
        )

    def _with_objects(self, thumbnail: np.ndarray, window: tuple[slice, slice]) -> np.ndarray:
        """Marks the objects inside the window, in the page's size for legible captions."""
        rows, columns = window
        scale = thumbnail.shape[1] / (columns.stop - columns.start)
        boxes, captions = [], []
        for unknown in self.objects:
            left, top = unknown.box.left - columns.start, unknown.box.top - rows.start
            right, bottom = left + unknown.box.width, top + unknown.box.height
            size = (columns.stop - columns.start, rows.stop - rows.start)
            if min(left, top) >= 0 and right <= size[0] and bottom <= size[1]:
                corners = [round(scale * edge) for edge in (left, top, right, bottom)]
                boxes.append((*corners[:2], corners[2] - corners[0], corners[3] - corners[1]))
                captions.append(f"{unknown.score:.2f}")
        return drawing.mark_objects(thumbnail, boxes, captions)


def largest_component(pixels: np.ndarray) -> tuple[int, int, int, int]:
    """Bounding box (left, top, width, height) of the largest 8-connected group of True pixels.

    Args:
        pixels: (H, W) bool with at least one True.
    """
    _, _, stats, _ = cv2.connectedComponentsWithStats(pixels.astype(np.uint8), connectivity=8)
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    left, top, width, height = stats[largest, : cv2.CC_STAT_AREA].tolist()
    return left, top, width, height


def window_around(
    box: tuple[int, int, int, int], size: tuple[int, int], zoom: float = 4.0
) -> tuple[slice, slice]:
    """A window of the frame's shape around a box, moved inside the frame.

    Args:
        box: (left, top, width, height).
        size: (height, width) of the frame.
        zoom: The window is the frame's size divided by this, or larger where the box needs it.
    """
    left, top, width, height = box
    share = min(1.0, max(1 / zoom, 1.5 * width / size[1], 1.5 * height / size[0]))
    slices = []
    for start, extent, full in ((top, height, size[0]), (left, width, size[1])):
        length = max(1, round(full * share))
        first = min(max(0, start + extent // 2 - length // 2), full - length)
        slices.append(slice(first, first + length))
    return slices[0], slices[1]


def _thumbnail(picture: np.ndarray) -> np.ndarray:
    return drawing.fit_width(picture, THUMBNAIL_WIDTH)


def _share(count: int, pixels: np.ndarray) -> str:
    total = int(pixels.sum())
    return f"{100 * count / total:.1f} %" if total else "none labelled"

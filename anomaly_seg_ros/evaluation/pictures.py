"""Pictures of a run for the report: the images where a score does best and worst.

They are chosen by the images' own AP after the passes, and only these few are scored again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from anomaly_seg_ros import drawing
from anomaly_seg_ros.datasets import LoadedSample
from anomaly_seg_ros.errors import OutputError
from anomaly_seg_ros.evaluation.figures import Benchmark
from anomaly_seg_ros.evaluation.frames import Frames
from anomaly_seg_ros.evaluation.scorers import Scorer
from anomaly_seg_ros.inference.prediction import Prediction
from anomaly_seg_ros.io.atomic import write_atomically
from anomaly_seg_ros.io.safe_yaml_json import inside, read_json
from anomaly_seg_ros.metrics.pixel_scores import FrameFigures

_WORST, _BEST = 2, 1
_PANEL_WIDTH = 320
_ALPHA = 0.45
_CAPTIONS = "captions.json"


def draw_pictures(
    folder: Path,
    scorer: Scorer,
    frames: Frames,
    names: Mapping[int, str],
    figures: Mapping[str, Sequence[FrameFigures]],
    thresholds: Mapping[str, float],
) -> None:
    """Writes the pictures of one run, in the place of older ones.

    Args:
        folder: For the pictures.
        scorer: Of the frames.
        frames: Of the data.
        names: Of the frames, by index.
        figures: Of the frames, by score.
        thresholds: By score: from where a pixel is drawn as an alarm, in the score's unit.

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
    """The pictures of all runs: (model, data) -> caption and PNG.

    Args:
        benchmark: The runs.
        folder: With ``pictures/``.

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
    """Where the pictures of a run lie."""
    return folder / "pictures" / f"{model}__{data}"


def _headline(scorer: Scorer, thresholds: Mapping[str, float]) -> str | None:
    """The model's default score, or another one that has a threshold."""
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
    labels, palette = prediction.labels, scorer.palette
    if labels is None or palette is None:
        labels, palette = np.full(raw.shape, 255, np.uint8), np.zeros((1, 3), np.uint8)
    scene = drawing.overlay(
        sample.image, labels, palette, _ALPHA, (sample.anomaly_mask < 2) & (raw >= threshold)
    )
    panels = (
        sample.image,
        scene,
        drawing.heat_map(unit),
        drawing.anomaly_mask(sample.anomaly_mask),
    )
    return drawing.beside(*(drawing.fit_width(panel, _PANEL_WIDTH) for panel in panels))

# SPDX-License-Identifier: Apache-2.0
"""Turns counts into thresholds and figures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from anomaly_seg_ros.calibration import ScoreCalibration
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.evaluation.accumulate import AlarmPass, Decisions, PixelPass
from anomaly_seg_ros.evaluation.frames import Frames
from anomaly_seg_ros.evaluation.object_counts import ObjectCounts, UnitScale
from anomaly_seg_ros.evaluation.results import (
    FPR95_KEYS,
    BestF1,
    Calibration,
    Components,
    DistanceBin,
    Objects,
    OpenSet,
    PerImage,
    Run,
    ScoreFigures,
    Segmentation,
)
from anomaly_seg_ros.evaluation.scorers import Scorer
from anomaly_seg_ros.metrics.by_distance import DistanceScores
from anomaly_seg_ros.metrics.calibration_error import calibration_bins, check_threshold
from anomaly_seg_ros.metrics.components import COMPONENT_SIZES, ComponentScores
from anomaly_seg_ros.metrics.confusion import ConfusionMatrix
from anomaly_seg_ros.metrics.open_set_iou import (
    CrossFoldMetrics,
    OpenSetConfusion,
    OpenSetMetrics,
    combine_folds,
    held_out_thresholds,
)
from anomaly_seg_ros.metrics.pixel_scores import PixelMetrics, PixelScores
from anomaly_seg_ros.metrics.thresholds import best_f1_threshold

FOLDS, CALIBRATION = "folds", "calibration"
# Per frame; objects are judged at the smallest score that the model's table gives for this rate.
FALSE_ALARMS = 0.5


def decide(
    pixels: PixelPass, scorer: Scorer, open_set: bool, sizes: str | None
) -> tuple[Decisions, list[str]]:
    """Finds the thresholds of the second pass.

    Args:
        pixels: The whole first pass.
        scorer: Where the scores come from.
        open_set: There are labels for open-set figures.
        sizes: Key of ``COMPONENT_SIZES``, or None without components.

    Returns:
        The thresholds, and notes on what has none.
    """
    notes: list[str] = []
    with_anomalies = [score for score in scorer.scores if _has_anomalies(pixels, score)]
    components = {}
    if sizes is not None:
        components = {
            score: best_f1_threshold(pixels.pooled(score)).threshold for score in with_anomalies
        }
    thresholds: dict[str, dict[str, float]] = {}
    threshold_from = ""
    if open_set and with_anomalies:
        named = [fold for fold in pixels.folds if fold]
        threshold_from = FOLDS if len(named) >= 2 else CALIBRATION
        if threshold_from == FOLDS and len(named) < len(pixels.folds):
            notes.append("open-set figures without the frames that are in no fold")
        for score in with_anomalies:
            if threshold_from == FOLDS:
                try:
                    found = held_out_thresholds([pixels.folds[f][score].positives for f in named])
                except ParameterError as error:
                    notes.append(f"no open-set figures: {error}")
                    break
                thresholds[score] = dict(zip(named, found, strict=True))
            elif score in scorer.calibration:
                thresholds[score] = {"": scorer.calibration[score].threshold}
        if missing := [s for s in with_anomalies if s not in thresholds]:
            notes.append(f"no threshold for open-set figures: {', '.join(missing)}")
    smallest = None if sizes is None else COMPONENT_SIZES[sizes]
    objects = {score: _unit(scorer, score) for score in components if score in scorer.calibration}
    return Decisions(components, smallest, thresholds, threshold_from, objects), notes


def summarise(
    pixels: PixelPass,
    alarms: AlarmPass,
    decisions: Decisions,
    scorer: Scorer,
    frames: Frames,
    sizes: str | None,
) -> Run:
    """Computes all figures of a run.

    Args:
        pixels: The whole first pass.
        alarms: The whole second pass; without frames where there was none.
        decisions: Thresholds of the second pass.
        scorer: Where the scores come from.
        frames: The data.
        sizes: Key of ``COMPONENT_SIZES``, or None without components.
    """
    run = Run(
        model=scorer.name,
        dataset=frames.adapter,
        data=frames.label,
        via=scorer.via,
        frames=len(pixels.done),
        pixels={"anomaly": 0, "in_distribution": 0},
        seconds=round(pixels.seconds + alarms.seconds, 3),
        model_configuration=scorer.configuration,
        notes=[*frames.notes, *scorer.notes],
        input=frames.input,
    )
    if pixels.without_mask:
        run.notes.append(f"{pixels.without_mask} frames have no anomaly mask")
    if pixels.folds:
        for score in scorer.scores:
            result, note = _score(pixels.pooled(score), scorer.calibration.get(score), run)
            if note and note not in run.notes:
                run.notes.append(note)
            if score in pixels.distance:
                result.distance = _distance(pixels.distance[score])
            if score in alarms.components and sizes is not None:
                result.components = _components(alarms.components[score], sizes)
            if score in alarms.objects and sizes is not None:
                result.objects = _objects(alarms.objects[score], sizes)
            run.scores[score] = result
    if pixels.distance:
        run.notes.append(_left_out(next(iter(pixels.distance.values()))))
    if pixels.confusion is not None:
        run.segmentation = closed_set_figures(pixels.confusion, frames.classes)
    if alarms.open_set:
        run.open_set = {
            score: _open_set(folds, decisions.threshold_from, frames.classes)
            for score, folds in alarms.open_set.items()
        }
    return run


def percent(fraction: float) -> float | None:
    """A fraction in percent; None for NaN."""
    return None if math.isnan(fraction) else 100 * float(fraction)


def percents(names: Sequence[str], fractions: Sequence[float]) -> dict[str, float | None]:
    """Fractions in percent by name."""
    return {name: percent(value) for name, value in zip(names, fractions, strict=True)}


def pooled_figures(metrics: PixelMetrics) -> ScoreFigures:
    """AP, AUROC and FPR95 in percent."""
    return ScoreFigures(percent(metrics.AP), percent(metrics.AUROC), percent(metrics.FPR95))


def pixel_counts(metrics: PixelMetrics) -> dict[str, int]:
    """Pooled pixels of both kinds, as ``Run.pixels`` has them."""
    return {"anomaly": metrics.positives, "in_distribution": metrics.negatives}


def closed_set_figures(matrix: ConfusionMatrix, classes: Sequence[str]) -> Segmentation | None:
    """Figures of a confusion matrix whose classes have these names; None where it is empty."""
    if not matrix.counts.any():
        return None
    return Segmentation(
        percent(matrix.mean_iou()),
        percent(matrix.pixel_accuracy()),
        percents(classes, matrix.iou().tolist()),
    )


def target_fpr(calibration: ScoreCalibration) -> float:
    """False-positive rate that the deployed threshold was set for; NaN if it is not tabulated."""
    thresholds, rates = calibration.inlier_rates.thresholds, calibration.inlier_rates.rates
    if not thresholds or not thresholds[0] <= calibration.threshold <= thresholds[-1]:
        return float("nan")
    return float(np.interp(calibration.threshold, thresholds, rates))


def _has_anomalies(pixels: PixelPass, score: str) -> bool:
    return any(fold[score].positives.total for fold in pixels.folds.values())


def _score(
    pixels: PixelScores, calibration: ScoreCalibration | None, run: Run
) -> tuple[ScoreFigures, str]:
    metrics = pixels.compute()
    run.pixels = pixel_counts(metrics)
    result = pooled_figures(metrics)
    result.FPR95_conventions = {
        key: percent(metrics.fpr95[name]) for key, name in FPR95_KEYS.items()
    }
    if (images := metrics.per_image) is not None:
        result.per_image = PerImage(
            percent(images.AP), percent(images.AUROC), percent(images.FPR95), images.frames
        )
    if metrics.positives:
        best = best_f1_threshold(pixels)
        result.best_F1 = BestF1(100 * best.f1, best.threshold)
    if calibration is not None:
        check = check_threshold(pixels, calibration.threshold)
        result.calibration = Calibration(
            0.5,
            percent(target_fpr(calibration)),
            percent(check.measured_fpr),
            percent(check.measured_tpr),
            percent(calibration_bins(pixels, calibration.to_unit).error),
        )
    return result, metrics.note


def _distance(scores: DistanceScores) -> list[DistanceBin]:
    metrics = scores.compute()
    return [
        DistanceBin(from_m, to_m, percent(b.AP), percent(b.FPR95), b.positives, b.negatives)
        for from_m, to_m, b in zip(
            metrics.edges_m, metrics.edges_m[1:], metrics.bins, strict=False
        )
    ]


def _left_out(scores: DistanceScores) -> str:
    """Describes the pixels that no distance bin counts; the same for every score."""
    metrics = scores.compute()
    parts = (
        f"{what} {counts.anomalous} anomalous and {counts.in_distribution} in-distribution pixels"
        for what, counts in (
            ("unmeasured", metrics.unmeasured),
            ("beyond all bins", metrics.out_of_range),
        )
    )
    return f"by distance without: {', '.join(parts)}"


def _components(scores: ComponentScores, sizes: str) -> Components:
    metrics = scores.compute()
    return Components(
        percent(metrics.sIoU), percent(metrics.PPV), percent(metrics.F1), scores.threshold, sizes
    )


def _unit(scorer: Scorer, score: str) -> UnitScale:
    """The scale on which objects are searched, and their smallest score."""
    calibration, rates, least = scorer.calibration[score], scorer.object_rates, 0.0
    if rates is not None and rates.score == score and rates.false_alarms[-1] <= FALSE_ALARMS:
        least = rates.min_scores[rates.index_for(FALSE_ALARMS)]
    return UnitScale(calibration.threshold, calibration.scale, least)


def _objects(counts: ObjectCounts, sizes: str) -> Objects:
    pixels, objects = counts.pixels.compute(), counts.objects.compute()
    found = counts.detections.at(counts.min_score)
    return Objects(
        percent(pixels.F1),
        percent(pixels.PPV),
        percent(objects.sIoU),
        percent(objects.PPV),
        percent(objects.F1),
        percent(found.found / found.targets if found.targets else math.nan),
        found.false_alarms / found.frames,
        counts.min_score,
        sizes,
    )


def _open_set(
    folds: dict[str, OpenSetConfusion], threshold_from: str, classes: tuple[str, ...]
) -> OpenSet:
    """Figures of one threshold, or over folds weighted by their images."""
    whole: OpenSetMetrics | CrossFoldMetrics
    if len(folds) == 1:
        (matrix,) = folds.values()
        whole = matrix.compute()
        parts: Sequence[OpenSetMetrics] = (whole,)
    else:
        whole = combine_folds(list(folds.values()))
        parts = whole.folds
    weights = [part.frames for part in parts]

    def mean(figure: str) -> float | None:
        values = [getattr(part, figure) for part in parts]
        return percent(float(np.average(values, weights=weights))) if any(weights) else None

    return OpenSet(
        percent(whole.open_miou),
        percent(whole.closed_miou),
        percent(whole.gap),
        percent(whole.mean_f1),
        mean("anomaly_iou"),
        mean("tpr"),
        mean("fpr"),
        threshold_from,
        percents(classes, whole.open_iou.tolist()),
    )

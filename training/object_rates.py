# SPDX-License-Identifier: Apache-2.0
"""Measures what share of unknown objects a model finds, at how many false alarms a frame."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from anomaly_seg_ros.inference.prediction import OutputRequest, UnknownRule
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.metrics.object_detection import ObjectDetections
from anomaly_seg_ros.objects.rates import ObjectRates
from anomaly_seg_ros.objects.regions import ObjectRule, find_objects

# Per frame; those that the number of frames cannot tell from none are left out.
FALSE_ALARMS = (10.0, 5.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
# The rate at which kinds of things are told apart, and halves of the frames compared.
CHECKED = 0.5
Frames = Iterable[tuple[np.ndarray, np.ndarray]]


def object_rates(
    segmenter: Segmenter,
    score: str,
    known: Frames,
    unknown: Mapping[str, Frames],
    rule: ObjectRule,
) -> tuple[ObjectRates, dict[str, Any]]:
    """Searches held-out frames for objects.

    Args:
        segmenter: The model, with calibrated scores.
        score: Name of the anomaly score.
        known: (H, W, 3) uint8 RGB frames without unknown things, each with its (H, W) uint8 mask
            of 0, and 255 where nobody knows; false alarms are counted on these.
        unknown: Kinds of frames with unknown things; their masks are 1 there.
        rule: What counts as an object; things of fewer pixels need not be found.

    Returns:
        The rates over all frames, and what people should know of them: the share found of each
        kind, and how rates that every second frame promises hold on the other frames.
    """
    request = OutputRequest(
        labels=False, confidence=False, unknown=UnknownRule(score, rule.threshold, mask=False)
    )

    def halves(frames: Frames) -> list[ObjectDetections]:
        collections = [ObjectDetections(rule.min_area), ObjectDetections(rule.min_area)]
        for index, (image, mask) in enumerate(frames):
            (prediction,) = segmenter.segment([image], request)
            if prediction.unit_score is None:
                raise RuntimeError("the unit score was requested")
            collections[index % 2].update(find_objects(prediction.unit_score, rule), mask)
        return collections

    def merged(parts: Iterable[ObjectDetections]) -> ObjectDetections:
        whole = ObjectDetections(rule.min_area)
        for part in parts:
            whole.merge(part)
        return whole

    alarms = halves(known)
    things = {kind: halves(frames) for kind, frames in unknown.items()}
    first, second = (merged(parts[half] for parts in things.values()) for half in (0, 1))
    rates = tabulate(merged(alarms), merged([first, second]), score, rule)
    report: dict[str, Any] = {}
    if min(rates.false_alarms) <= CHECKED:
        cut = rates.min_scores[rates.index_for(CHECKED)]
        report = {
            "false_alarms": _per_frame(merged(alarms), cut),
            "found": {kind: _share_found(merged(parts), cut) for kind, parts in things.items()},
        }
    promised = tabulate(alarms[0], first, score, rule)
    if alarms[1].at(0.0).frames and min(promised.false_alarms) <= CHECKED:
        row = promised.index_for(CHECKED)
        cut = promised.min_scores[row]
        report["check"] = {
            "promised": [promised.false_alarms[row], promised.found[row]],
            "on_other_frames": [_per_frame(alarms[1], cut), _share_found(second, cut)],
        }
    return rates, report


def tabulate(
    known: ObjectDetections, unknown: ObjectDetections, score: str, rule: ObjectRule
) -> ObjectRates:
    """Rates at the smallest scores that keep to each of ``FALSE_ALARMS``.

    Args:
        known: Objects on frames without unknown things.
        unknown: Objects on frames with unknown things.
        score: Name of the anomaly score.
        rule: What counted as an object.
    """
    frames = known.at(0.0).frames
    falling = known.false_alarm_scores()
    # A score just above that of the first false alarm too many; 0 where none is.
    allowed = [int(rate * frames) for rate in FALSE_ALARMS]
    cuts = sorted(
        {0.0}
        | {
            float(np.nextafter(falling[count], math.inf))
            for count in allowed
            if 0 < count < falling.size
        }
    )
    return ObjectRates(
        score,
        rule,
        min_scores=tuple(cuts),
        false_alarms=tuple(_per_frame(known, cut) for cut in cuts),
        found=tuple(_share_found(unknown, cut) for cut in cuts),
    )


def _per_frame(known: ObjectDetections, min_score: float) -> float:
    counts = known.at(min_score)
    return counts.false_alarms / counts.frames


def _share_found(unknown: ObjectDetections, min_score: float) -> float:
    counts = unknown.at(min_score)
    return counts.found / counts.targets if counts.targets else 0.0

# SPDX-License-Identifier: Apache-2.0
"""The result of a replay in one sentence that a person can repeat."""

from __future__ import annotations

from anomaly_seg_ros.evaluation.plan import REAL_TIME
from anomaly_seg_ros.evaluation.results import Run


def opening_sentence(run: Run) -> str:
    """What was found, and how fast; empty where objects were not counted.

    Only figures that were measured take part: without ground truth it says what was seen, and in
    real time, where frames wait for one another, it says nothing of the rate.
    """
    objects = run.replay and run.replay.objects
    if not objects:
        return ""
    if not run.frames:
        return "No frame was scored."
    rate = _rate(run)
    if not objects.judged:
        return (
            f"Saw {_count(objects.seen, 'unknown object')} in {_count(run.frames, 'frame')}, "
            f"{_short(objects.seen / run.frames)} a frame{rate}; without ground truth, nobody "
            "knows how many are right."
        )
    alarms = f"{_short(objects.false_alarms / objects.judged)} false alarms a frame{rate}."
    if not objects.targets:
        return f"No unknown object to find in {_count(objects.judged, 'frame')}, {alarms}"
    return f"Found {objects.found:,} of {_count(objects.targets, 'unknown object')}, {alarms}"


def _rate(run: Run) -> str:
    """Frames per second where each was sent after the answer to the one before."""
    replay = run.replay
    if replay is None or replay.latency_ms is None or not replay.latency_ms.median:
        return ""
    if replay.configuration.get("options", {}).get("mode") == REAL_TIME:
        return ""
    return f", at {_short(1000 / replay.latency_ms.median)} frames/s"


def _short(value: float) -> str:
    if value >= 9.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 0.05 else f"{value:.2g}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"

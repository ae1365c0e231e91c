# SPDX-License-Identifier: Apache-2.0
"""The sentence says what was measured, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from anomaly_seg_ros.evaluation.plan import LOCK_STEP, REAL_TIME
from anomaly_seg_ros.evaluation.results import Latency, ObjectFigures, Replay, Run
from anomaly_seg_ros.evaluation.sentence import opening_sentence

FAST = Latency(66.0, 80.0, 90.0, 100.0)


def a_run(frames: int = 40, mode: str = LOCK_STEP, **changes: Any) -> Run:
    latency = changes.pop("latency", None)
    counts = {"seen": 47, "judged": 40, "targets": 40, "found": 31, "false_alarms": 16, **changes}
    objects = ObjectFigures("msp", **counts, threshold=0.5, min_area=100)
    configuration = {"options": {"mode": mode}}
    replay = Replay(latency_ms=latency, objects=objects, configuration=configuration)
    return Run("m", "bag", "", "node", frames, {}, replay=replay)


@pytest.mark.parametrize(
    ("run", "told"),
    [
        (
            a_run(latency=FAST),
            "Found 31 of 40 unknown objects, 0.4 false alarms a frame, at 15 frames/s.",
        ),
        (a_run(), "Found 31 of 40 unknown objects, 0.4 false alarms a frame."),
        (
            a_run(latency=FAST, mode=REAL_TIME),
            "Found 31 of 40 unknown objects, 0.4 false alarms a frame.",
        ),
        (
            a_run(targets=1, found=0, false_alarms=0, latency=Latency(250, 300, 300, 300)),
            "Found 0 of 1 unknown object, 0 false alarms a frame, at 4.0 frames/s.",
        ),
        (
            a_run(targets=0, found=0, false_alarms=1),
            "No unknown object to find in 40 frames, 0.025 false alarms a frame.",
        ),
        (
            a_run(judged=0, targets=0, found=0, false_alarms=0, seen=1200, latency=FAST),
            "Saw 1,200 unknown objects in 40 frames, 30 a frame, at 15 frames/s; without ground "
            "truth, nobody knows how many are right.",
        ),
        (a_run(frames=0), "No frame was scored."),
        (Run("m", "bag", "", "node", 3, {}), ""),
        (Run("m", "bag", "", "node", 3, {}, replay=Replay()), ""),
    ],
)
def test_by_what_was_measured(run: Run, told: str) -> None:
    assert opening_sentence(run) == told

# SPDX-License-Identifier: Apache-2.0
"""Objects are counted frame by frame, and told to people and programs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_metadata

from anomaly_seg_ros.evaluation.collector import Collector
from anomaly_seg_ros.evaluation.results import FlickerFigures
from anomaly_seg_ros.evaluation.tables import format_run

SHAPE = (60, 90)


def square(top: int, left: int, value: float) -> np.ndarray:
    array = np.zeros(SHAPE, np.float32)
    array[top : top + 12, left : left + 12] = value
    return array


def test_found_missed_and_false_objects(tmp_path: Path) -> None:
    """Three frames: one thing found, one missed beside a false alarm, and one without a mask."""
    collector = Collector(tiny_metadata(), "msp", video=tmp_path / "overlay.mp4")
    image, labels = np.full((*SHAPE, 3), 90, np.uint8), np.zeros(SHAPE, np.uint8)
    frames = (
        ("hit", square(5, 5, 0.9), square(5, 5, 1)),
        ("miss", square(5, 5, 0.8), square(40, 60, 1)),
        ("foreign", square(5, 5, 0.7), None),
    )
    for name, unit, truth in frames:
        mask = None if truth is None else truth.astype(np.uint8)
        collector.sent += 1
        collector.add(name, image, mask, None, labels, unit, None)
    collector.close()
    result = collector.result("squares", {}, with_node=False)
    collector.write(result, tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text())["objects"] == {
        "score": "msp",
        "seen": 3,
        "judged": 2,
        "targets": 2,
        "found": 1,
        "false_alarms": 1,
        "threshold": 0.5,
        "min_area": 100,
    }
    told = "Found 1 of 2 unknown objects, 0.5 false alarms a frame."
    report = (tmp_path / "report.html").read_text()
    assert told in report
    assert 'href="frames.html"' in report
    browser = (tmp_path / "frames.html").read_text()
    assert told in browser
    for line in ("1 of 1 found, 0 false alarms", "0 of 1 found, 1 false alarms"):
        assert line in browser
    data = json.loads(browser.split('id="frames">')[1].split("</script>")[0])
    assert [frame["mark"] for frame in data] == [
        "",
        "missed",
        "unknown objects, no ground truth",
    ]
    assert [frame["seconds"] for frame in data] == [0, 0.1, 0.2]


def test_without_a_film_there_is_no_browser(tmp_path: Path) -> None:
    collector = Collector(tiny_metadata(), "msp")
    image, labels = np.full((*SHAPE, 3), 90, np.uint8), np.zeros(SHAPE, np.uint8)
    collector.add("a", image, None, None, labels, square(5, 5, 0.9), None)
    collector.write(collector.result("squares", {}, with_node=False), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.json", "report.html"]
    assert "Saw 1 unknown object in 1 frame" in (tmp_path / "report.html").read_text()


def test_what_changes_from_frame_to_frame_is_told(tmp_path: Path) -> None:
    collector = Collector(tiny_metadata(), "msp")
    image, labels = np.full((*SHAPE, 3), 90, np.uint8), np.zeros(SHAPE, np.uint8)
    assert collector.result("squares", {}, with_node=False).replay.flicker is None
    for index in range(3):
        score = square(5, 5, 0.9) if index == 1 else np.zeros(SHAPE, np.float32)
        collector.add(str(index), image, None, None, labels + np.uint8(index == 2), score, None)
    result = collector.result("squares", {}, with_node=False)
    share = 100 * float((square(5, 5, 0.9) >= 0.5).mean())
    # The square comes and goes; the labels change once in two pairs.
    assert result.replay.flicker == FlickerFigures(pytest.approx(share), 50.0, 2)
    collector.write(result, tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text())["flicker"]["labels"] == 50.0
    assert "the label in 50.00 %" in (tmp_path / "report.html").read_text()
    assert f"mask of {share:.2f} %, labels of 50.00 %" in format_run(result)


def test_a_replay_without_an_answer_still_makes_a_report(tmp_path: Path) -> None:
    collector = Collector(tiny_metadata(), "msp", video=tmp_path / "overlay.mp4")
    collector.sent = collector.lost = 3
    collector.close()
    collector.write(collector.result("squares", {}, with_node=True), tmp_path)
    assert "No frame was scored." in (tmp_path / "report.html").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.json", "report.html"]

# SPDX-License-Identifier: Apache-2.0
"""An old report beside a new one."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from anomaly_seg_ros.errors import AnomalySegError
from benchmarks.online.report_tables import compare, read_report

# The first test waits for the run.
pytestmark = [pytest.mark.ros, pytest.mark.slow, pytest.mark.timeout(400)]


def _slowed(
    report: dict[str, Any],
    factor: float,
    *contenders: str,
    statistics: tuple[str, ...] = ("median", "p10"),
) -> dict[str, Any]:
    """The same report with the times of some contenders, or of all, multiplied."""
    slowed = copy.deepcopy(report)
    entries = slowed["cases"][0]["contenders"]
    for name in contenders or entries:
        for statistic in statistics:
            entries[name]["ms"][statistic] *= factor
    return slowed


def test_a_report_equals_itself(report: dict[str, Any]) -> None:
    verdict = compare(report, report, tolerance=0.01)
    assert not verdict.regressions
    assert not verdict.remarks
    assert {row[-1] for row in verdict.rows} == {"same"}
    assert len(verdict.rows) == 4  # network, segmenter, node, eager node


def test_a_slower_node_is_a_regression(report: dict[str, Any]) -> None:
    verdict = compare(report, _slowed(report, 1.3, "node"), tolerance=0.15)
    assert len(verdict.regressions) == 1
    assert "node: 1.30 times" in verdict.regressions[0]
    assert verdict.regressions[0] in verdict.text()
    assert not compare(report, _slowed(report, 1.3, "node"), tolerance=0.5).regressions


def test_a_burst_of_other_work_is_no_regression(report: dict[str, Any]) -> None:
    """It moves the median, not the fast tenth."""
    disturbed = _slowed(report, 2.0, "node", statistics=("median",))
    assert not compare(report, disturbed, tolerance=0.15).regressions


def test_a_faster_node_is_none(report: dict[str, Any]) -> None:
    verdict = compare(report, _slowed(report, 0.5, "node"), tolerance=0.15)
    assert not verdict.regressions
    assert [row[-1] for row in verdict.rows].count("faster") == 1


def test_a_slower_machine_is_no_regression(report: dict[str, Any]) -> None:
    """Everything takes three times as long, the yardstick too."""
    slower = _slowed(report, 3.0)
    slower["machine"] |= {"cpu": "another", "cores": 64}
    verdict = compare(report, slower, tolerance=0.15)
    assert not verdict.regressions
    assert any("another machine" in remark for remark in verdict.remarks)
    assert report["machine"]["cpu"] in verdict.remarks[0]


def test_another_backend_is_said(report: dict[str, Any]) -> None:
    other = copy.deepcopy(report)
    other["cases"][0]["backend"] = "abacus"
    assert any("abacus" in remark for remark in compare(report, other, 0.15).remarks)


@pytest.mark.parametrize(
    ("name", "value"), [("transport", "profile"), ("num_threads", 7), ("device", "cuda:1")]
)
def test_other_settings_are_said(report: dict[str, Any], name: str, value: object) -> None:
    other = {**report, "settings": {**report["settings"], name: value}}
    (remark,) = compare(report, other, 0.15).remarks
    assert remark.startswith(f"{name} was {report['settings'][name]} ")
    assert remark.endswith(f" is {value} now")


def test_cases_of_one_file_only_are_said(report: dict[str, Any]) -> None:
    key = report["cases"][0]["key"]
    empty = {**report, "cases": []}
    assert compare(report, empty, 0.15).remarks == [f"not measured this time: {key}"]
    assert compare(empty, report, 0.15).remarks == [f"not in the older file: {key}"]


@pytest.mark.parametrize("content", ["", "[]", '{"format": 99}', "{"])
def test_another_file_is_refused_by_name(content: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(AnomalySegError, match=r"other\.json"):
        read_report(path)


def test_a_stored_report_is_read(report_path: Path, report: dict[str, Any]) -> None:
    assert read_report(report_path) == report == json.loads(report_path.read_text())

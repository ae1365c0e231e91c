# SPDX-License-Identifier: Apache-2.0
"""docs/performance.md from a report."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.online import document, timings

# The first test waits for the run.
pytestmark = [pytest.mark.ros, pytest.mark.slow, pytest.mark.timeout(400)]


def test_figures_and_names_stand_in_it(report: dict[str, Any]) -> None:
    text = document.document([report], "")
    (case,) = report["cases"]
    for name, what in timings.CONTENDERS.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| {what} |"))
        median = case["contenders"][name]["ms"]["median"]
        assert float(row.split("|")[2]) == pytest.approx(median, abs=0.05)
    assert report["machine"]["cpu"] in text
    assert report["commit"] in text
    assert re.search(r"^\| transport \|", text, re.MULTILINE)


def test_tables_are_well_formed(report: dict[str, Any]) -> None:
    """Every row of a table has as many cells as its head."""
    text = document.document([report, report], "")
    tables = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    assert len(tables) == 2 * 7
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_what_is_written_by_hand_stays(report_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "performance.md"
    assert document.main([str(report_path), "--out", str(out)]) == 0
    marked = out.read_text().replace(document.BEGIN, f"{document.BEGIN}\n\n## Mine\n\nA word.")
    out.write_text(marked)
    for _ in range(2):
        assert document.main([str(report_path), "--out", str(out)]) == 0
        assert document.kept_by_hand(out) == "## Mine\n\nA word."


def test_a_missing_report_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert document.main([str(tmp_path / "no.json"), "--out", str(tmp_path / "no.md")]) == 1
    assert "no.json" in capsys.readouterr().err
    assert not (tmp_path / "no.md").exists()


def test_aims_of_a_gpu_are_not_run_without_one(report: dict[str, Any]) -> None:
    report["machine"]["gpu"] = None
    judged = list(document.judged_aims(report))
    gpu = [aim for aim in judged if "(GPU)" in aim.aim]
    assert len(gpu) == 4
    assert {aim.verdict for aim in gpu} == {document.NOT_RUN}
    assert len(judged) > len(gpu)
    assert document.NOT_RUN not in {aim.verdict for aim in judged if aim not in gpu}


def _verdict(report: dict[str, Any], words: str) -> str:
    (aim,) = (aim for aim in document.judged_aims(report) if words in aim.aim)
    return aim.verdict


def _set(report: dict[str, Any], statistics: tuple[str, ...], **ratios: float) -> None:
    for statistic in statistics:
        report["cases"][0]["ratios"][statistic] |= ratios


def test_an_aim_is_met_from_its_bound_on(report: dict[str, Any]) -> None:
    both = ("median", "p10")
    _set(report, both, overhead_node_ms=5.0, node_over_network=1.5)
    for naive, verdict in ((9.9, document.MISSED), (10.0, document.MET)):
        _set(report, both, overhead_naive_node_ms=naive)
        assert _verdict(report, "overhead") == verdict


def test_an_aim_is_not_judged_where_the_statistics_differ(report: dict[str, Any]) -> None:
    _set(report, ("median",), overhead_node_ms=5.0, overhead_naive_node_ms=11.0)
    _set(report, ("p10",), overhead_node_ms=5.0, overhead_naive_node_ms=9.0)
    assert _verdict(report, "overhead") == document.UNCLEAR


def test_a_node_faster_than_its_network_meets_nothing(report: dict[str, Any]) -> None:
    both = ("median", "p10")
    _set(report, both, overhead_node_ms=-9.0, overhead_naive_node_ms=9.0, node_over_network=0.8)
    assert _verdict(report, "overhead") == document.UNCLEAR

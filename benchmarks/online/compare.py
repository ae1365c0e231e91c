"""A report beside an older one: what became slower, measured by each file's own yardstick.

Every time is divided by that of the eager network of the same case in the same file, so that
another machine's file, or one of a noisy day, can be compared at all. A regression shows in the
medians and in the fastest tenths.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anomaly_seg_ros.errors import AnomalySegError
from benchmarks.online import figures
from benchmarks.online.machine import same_machine
from benchmarks.online.tables import Table

FORMAT = 1
# Its own yardstick, and what is no code of this project.
_NOT_JUDGED = (figures.YARDSTICK, "plain_network", "naive_node", "echo_node")
# What makes a node faster or slower without a change of the code.
_SETTINGS = ("device", "num_threads", "transport")


@dataclass
class Verdict:
    """Outcome of a comparison.

    Attributes:
        remarks: What to know before reading on: another machine, missing cases.
        rows: One a case and contender.
        regressions: Those slower than the tolerance allows, in words.
    """

    tolerance: float
    remarks: list[str] = field(default_factory=list)
    rows: list[tuple[str, ...]] = field(default_factory=list)
    regressions: list[str] = field(default_factory=list)

    def text(self) -> str:
        """For the terminal."""
        table = Table(
            f"Against the older file; relative = divided by {figures.YARDSTICK} of the same file:",
            ("", "old ms", "new ms", "old relative", "new relative", "new / old", "of p10", ""),
            self.rows,
        )
        end = f"no regression over {100 * self.tolerance:.0f} %"
        if self.regressions:
            end = "\n".join(["REGRESSIONS:", *(f"  {line}" for line in self.regressions)])
        return "\n".join([*self.remarks, table.text(), end])


def compare(old: dict[str, Any], new: dict[str, Any], tolerance: float) -> Verdict:
    """Judges each of our contenders in the cases that both reports have.

    Args:
        old: A report.
        new: The one to be judged.
        tolerance: How much slower is still called the same, as a fraction.
    """
    verdict = Verdict(tolerance)
    if not same_machine(old["machine"], new["machine"]):
        verdict.remarks.append(
            f"The older file is from another machine: {old['machine']['cpu']}, "
            f"{old['machine']['cores']} cores, GPU {old['machine']['gpu'] or 'none'}. "
            "Only relative times are comparable, and those with care."
        )
    for name in _SETTINGS:
        before, now = (report["settings"].get(name) for report in (old, new))
        if before != now:
            verdict.remarks.append(f"{name} was {before} in the older file and is {now} now")
    older = {case["key"]: case for case in old["cases"]}
    for case in new["cases"]:
        if case["key"] not in older:
            verdict.remarks.append(f"not in the older file: {case['key']}")
            continue
        _compare_case(older.pop(case["key"]), case, verdict)
    verdict.remarks += [f"not measured this time: {key}" for key in older]
    return verdict


def _compare_case(old: dict[str, Any], new: dict[str, Any], verdict: Verdict) -> None:
    ran = [(case["backend"], case["precision"]) for case in (old, new)]
    if ran[0] != ran[1]:
        verdict.remarks.append(
            f"{new['key']}: ran on {' '.join(ran[1])}, the older file's on {' '.join(ran[0])}"
        )
    for name in figures.CONTENDERS:
        if name in _NOT_JUDGED or not all(name in case["contenders"] for case in (old, new)):
            continue
        # A burst of other work moves the median, but not the fast tenth: both must agree.
        changes = [
            _relative(new, name, statistic) / _relative(old, name, statistic)
            for statistic in ("median", "p10")
        ]
        word = "same"
        if min(changes) > 1 + verdict.tolerance:
            word = "SLOWER"
            verdict.regressions.append(
                f"{new['key']} {name}: {min(changes):.2f} times the older time"
            )
        elif max(changes) < 1 / (1 + verdict.tolerance):
            word = "faster"
        verdict.rows.append(
            (
                f"{new['key']} {name}",
                *(f"{figures.of(case, name):.1f}" for case in (old, new)),
                *(f"{_relative(case, name, 'median'):.3f}" for case in (old, new)),
                *(f"{change:.2f}" for change in changes),
                word,
            )
        )


def _relative(case: dict[str, Any], contender: str, statistic: str) -> float:
    yardstick = figures.of(case, figures.YARDSTICK, statistic)
    return figures.of(case, contender, statistic) / yardstick


def read_report(path: Path) -> dict[str, Any]:
    """A stored report.

    Raises:
        AnomalySegError: Missing, or no report of this format.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AnomalySegError(f"{path}: no benchmark report: {error}") from error
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise AnomalySegError(f"{path}: not a benchmark report of format {FORMAT}")
    return report

# SPDX-License-Identifier: Apache-2.0
"""Reports as tables, on the terminal and in Markdown, and a report beside an older one.

To compare two reports, every time is divided by that of the eager network of the same case in the
same file, so that a file of another machine or of a noisy day can be compared at all. A regression
must show in the medians and in the fastest tenths.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from anomaly_seg_ros.errors import AnomalySegError
from benchmarks.machine import same_machine
from benchmarks.online import timings
from benchmarks.online.cases import size_text

FORMAT = 1

# Contenders that are the yardstick itself or no code of this project.
_NOT_JUDGED = (timings.YARDSTICK, "plain_network", "naive_node", "echo_node")
# Settings that make a node faster or slower.
_SETTINGS = ("device", "num_threads", "transport")
BUSY = " (others were at work: trust ratios only)"
_NUMBER = re.compile(r"^[-+\d]?[\d.]*( of \d+)?$")


class Table(NamedTuple):
    """A caption, the head's cells, and rows of cells."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """Aligned with spaces: the first column to the left, the rest to the right."""
        lines = [self.head, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.head))]
        cells = (
            [line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines
        )
        return "\n".join([self.caption, *("  " + "  ".join(line).rstrip() for line in cells)])

    def markdown(self) -> str:
        """A Markdown table below its caption."""
        columns = zip(*self.rows, strict=True)
        rule = ["---:" if all(map(_NUMBER.match, column)) else "---" for column in columns]
        return "\n".join(
            [
                f"{self.caption}\n",
                *("| " + " | ".join(r) + " |" for r in (self.head, rule, *self.rows)),
            ]
        )


def title(case: dict[str, Any]) -> str:
    """What was measured, in a line."""
    return (
        f"{case['model']}: frames {size_text(case['frame_size'])}, network at "
        f"{size_text(case['network_size'])}, {case['backend']} {case['precision']} on "
        f"{case['device']}, score {case['score']}"
    )


def case_tables(case: dict[str, Any]) -> Iterator[Table]:
    """All tables of a case."""
    yield _times(case)
    yield _stages(case)
    yield _ratios(case)
    if any("load" in entry for entry in case["contenders"].values()):
        yield _load(case)


def _times(case: dict[str, Any]) -> Table:
    rows = []
    for name, what in timings.CONTENDERS.items():
        if name in case["contenders"]:
            entry = case["contenders"][name]
            ms, sender = entry["ms"], entry.get("sender_ms")
            rows.append(
                (
                    what,
                    _ms(ms["median"]),
                    _ms(ms["p10"]),
                    _ms(ms["p99"]),
                    str(ms["frames"]),
                    _ms(sender["median"]) if sender else "-",
                )
            )
    return Table(
        "Milliseconds a frame, one at a time (of which the sender's publish call):",
        ("", "median", "p10", "p99", "frames", "sender"),
        rows,
    )


def _stages(case: dict[str, Any]) -> Table:
    columns = {
        name: case["contenders"][name]
        for name in ("node", "eager_node")
        if "stages" in case["contenders"].get(name, {})
    }
    stages = list(dict.fromkeys(s for entry in columns.values() for s in entry["stages"]))
    head, rows = ["stage"], [[stage] for stage in stages]
    for name, entry in columns.items():
        head += [f"{name} median", "p99"]
        for row in rows:
            times = entry["stages"].get(row[0], {})
            row += [_ms(times.get("median")), _ms(times.get("p99"))]
    return Table("Where the node's time goes, milliseconds:", head, rows)


# Ratio -> in words.
_RATIOS = {
    "node_over_network": "our node / its network alone",
    "node_minus_network_ms": "our node - its network alone, ms",
    "eager_node_over_node": "eager node / our node",
    "naive_over_node": "naive node / our node",
    "overhead_naive_node_ms": "overhead of the naive node, ms",
    "overhead_eager_node_ms": "overhead of the eager node, ms",
    "overhead_naive_over_node": "overhead: naive node / our node",
    "overhead_naive_over_eager_node": "overhead: naive node / eager node",
}


def _ratios(case: dict[str, Any]) -> Table:
    both = case["ratios"]["median"], case["ratios"]["p10"]
    rows = [
        (words, *(f"{ratios[key]:.2f}" if key in ratios else "-" for ratios in both))
        for key, words in _RATIOS.items()
        if any(key in ratios for ratios in both)
    ]
    return Table("Ratios and differences:", ("", "of medians", "of p10"), rows)


def _load(case: dict[str, Any]) -> Table:
    rows = []
    for name, what in timings.NODES.items():
        entry = case["contenders"].get(name, {})
        if "load" in entry:
            load = entry["load"]
            rows.append(
                (
                    what,
                    f"{load['sent_per_s']:.1f}",
                    f"{load['answered_per_s']:.1f}",
                    f"{load['dropped']} of {load['sent']}",
                    _ms(load.get("latency_ms")),
                    f"{load['cpu_percent']:.0f}",
                    f"{load['sender_cpu_percent']:.0f}",
                    f"{entry['peak_rss_mib']:.0f}",
                )
            )
    head = ("", "sent/s", "answered/s", "dropped", "median ms")
    head += ("CPU %", "sender CPU %", "peak RSS MiB")
    return Table("More frames than the node can take (CPU in % of a core):", head, rows)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def head_and_score(report: dict[str, Any]) -> Table:
    """DenseHybrid's outlier head and score, without their network."""
    rows = [
        (
            f"{entry['network']}, image {size_text(entry['image_size'])}, "
            f"{entry['precision']} on {entry['device']}",
            "x".join(map(str, entry["features"])),
            f"{entry['eager_ms']:.3f}",
            f"{entry['graph_ms']:.3f}" if "graph_ms" in entry else "-",
        )
        for entry in report["head_and_score"]
    ]
    head = ("", "features", "ms", "as CUDA graph ms")
    return Table("DenseHybrid's head and score alone:", head, rows)


def report_text(report: dict[str, Any]) -> str:
    """The whole report for the terminal."""
    parts = ["\n".join(machine_lines(report))]
    for case in report["cases"]:
        parts.append(title(case))
        parts += [table.text() for table in case_tables(case)]
    parts += [f"skipped {key}: {reason}" for key, reason in report["skipped"].items()]
    if report.get("head_and_score"):
        parts.append(head_and_score(report).text())
    return "\n\n".join(parts)


def machine_lines(report: dict[str, Any]) -> Sequence[str]:
    """Machine, software and frames, and the floor of copying."""
    machine = report["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    copies = ", ".join(f"{size} {ms:.2f} ms" for size, ms in report["floors"]["copy_ms"].items())
    flags = ", ".join(machine["flags"]) or "none of the flags that matter"
    return [
        f"{machine['cpu']}, {machine['cores']} cores ({flags}), GPU: {machine['gpu'] or 'none'}",
        f"Python {machine['python']}, {versions}",
        f"commit {report['commit']}, {report['created']}; frames: {report['frames']}; "
        "sizes are height x width",
        f"load average before: {report['load_average']:.1f}"
        + (BUSY if report["load_average"] > machine["cores"] / 4 else ""),
        f"copying a frame in and its labels, score and mask out once: {copies}",
    ]


@dataclass
class Verdict:
    """Outcome of a comparison.

    Attributes:
        remarks: Notes to read first: another machine, missing cases.
        rows: One row per case and contender.
        regressions: Contenders slower than the tolerance allows, in words.
    """

    tolerance: float
    remarks: list[str] = field(default_factory=list)
    rows: list[tuple[str, ...]] = field(default_factory=list)
    regressions: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The verdict for the terminal."""
        table = Table(
            f"Against the older file; relative = divided by {timings.YARDSTICK} of the same file:",
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
        old: The older report.
        new: The report to judge.
        tolerance: How much slower counts as the same, as a fraction.
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
    for name in timings.CONTENDERS:
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
                *(f"{timings.of(case, name):.1f}" for case in (old, new)),
                *(f"{_relative(case, name, 'median'):.3f}" for case in (old, new)),
                *(f"{change:.2f}" for change in changes),
                word,
            )
        )


def _relative(case: dict[str, Any], contender: str, statistic: str) -> float:
    yardstick = timings.of(case, timings.YARDSTICK, statistic)
    return timings.of(case, contender, statistic) / yardstick


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

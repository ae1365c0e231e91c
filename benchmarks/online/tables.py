"""The report as text: the same tables on the terminal (aligned) and in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks.online import figures
from benchmarks.online.cases import size_text

BUSY = " (others were at work: trust ratios only)"
_NUMBER = re.compile(r"^[-+\d]?[\d.]*( of \d+)?$")


class Table(NamedTuple):
    """A caption, the head's cells, and rows of cells."""

    caption: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]

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
    for name, what in figures.CONTENDERS.items():
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
    rows = [
        (
            stage,
            *(
                cell
                for entry in columns.values()
                for cell in (
                    _ms(entry["stages"].get(stage, {}).get("median")),
                    _ms(entry["stages"].get(stage, {}).get("p99")),
                )
            ),
        )
        for stage in stages
    ]
    head = ("stage", *(cell for name in columns for cell in (f"{name} median", "p99")))
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
    for name, what in figures.NODES.items():
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
    head = (
        "",
        "sent/s",
        "answered/s",
        "dropped",
        "median ms",
        "CPU %",
        "sender CPU %",
        "peak RSS MiB",
    )
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

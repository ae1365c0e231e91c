"""The Markdown tables of a study."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomaly_seg_ros.errors import ParameterError
from training.storage import write_atomically

if TYPE_CHECKING:
    from training.study import Row

_BEGIN = "<!-- tables: written by training.study, do not edit -->"
_END = "<!-- end of tables -->"


def write_tables(
    path: Path,
    study: Mapping[str, Any],
    tables: Mapping[str, Sequence[Row]],
    results: Mapping[str, Mapping[str, Any]],
) -> None:
    """Replaces the tables between the two markers of a file; a new file gets the markers.

    Args:
        path: Markdown.
        study: Content of the study's file.
        tables: Rows of the tables to write. Other tables of the study stay as they are.
        results: By run folder; rows without one are left out. A table without any stays as it is.

    Raises:
        ParameterError: There is no result at all.
        OutputError: The file cannot be written.
    """
    new = {
        key: _table(study["tables"][key], rows, study, results)
        for key, rows in tables.items()
        if any(row.folder in results for row in rows)
    }
    if not new:
        raise ParameterError(f"{path}: not written, no row of {', '.join(tables)} has a result")
    before, block, after = "", "", "\n"
    if path.exists():
        text = path.read_text(encoding="utf-8")
        before, _, rest = text.partition(_BEGIN)
        block, _, after = rest.partition(_END)
    standing = {
        part.partition("\n")[0]: part.strip() for part in re.split(r"^(?=### )", block, flags=re.M)
    }
    parts = [
        new.get(key) or standing.get(f"### {table['title']}")
        for key, table in study["tables"].items()
    ]
    content = "\n\n".join([_BEGIN, *filter(None, parts), _END])
    write_atomically(path, lambda file: file.write((before + content + after).encode()))


def _table(
    table: Mapping[str, Any],
    rows: Sequence[Row],
    study: Mapping[str, Any],
    results: Mapping[str, Mapping[str, Any]],
) -> str:
    sets = study["sets"]
    header = ["", "score", *(f"{s['title']} AP / FPR95" for s in sets.values()), "mIoU"]
    lines = [f"### {table['title']}", "", _line(header), _line(["---"] * len(header))]
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.folder in results:
            by_name.setdefault(row.name, []).append(results[row.folder])
    entries = [
        _Entry(name, score, found)
        for name, found in by_name.items()
        for score in table["scores"]
        if all(score in figures for result in found for figures in result["sets"].values())
    ]
    best = {key: max((entry.mean_ap(key) for entry in entries), default=0.0) for key in sets}
    named: set[str] = set()
    for entry in entries:
        first = entry.row not in named
        named.add(entry.row)
        lines.append(_line(_cells(entry, first, best)))
    return "\n".join(lines)


@dataclass(frozen=True)
class _Entry:
    """One score of one row, with the results of its seeds."""

    row: str
    score: str
    results: Sequence[Mapping[str, Any]]

    def figures(self, key: str, metric: str) -> list[float]:
        return [result["sets"][key][self.score][metric] for result in self.results]

    def mean_ap(self, key: str) -> float:
        return statistics.fmean(self.figures(key, "AP"))


def _cells(entry: _Entry, first: bool, best: Mapping[str, float]) -> list[str]:
    """A line; the row's name and mIoU stand in its first one, the best AP of a set is bold."""
    seeds = len(entry.results)
    label = entry.row + (f" ({seeds} seeds)" if seeds > 1 else "")
    cells = [label if first else "", f"`{entry.score}`"]
    for key, highest in best.items():
        ap = _percent(entry.figures(key, "AP"))
        ap = f"**{ap}**" if entry.mean_ap(key) == highest else ap
        cells.append(f"{ap} / {_percent(entry.figures(key, 'FPR95'))}")
    cells.append(_percent([result["mIoU"] for result in entry.results]) if first else "")
    return cells


def _percent(values: Sequence[float]) -> str:
    """Mean in percent, and the standard deviation of several."""
    text = f"{100 * statistics.fmean(values):.1f}"
    return f"{text} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else text


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"

"""The Markdown tables of a study."""

from __future__ import annotations

import itertools
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomaly_seg_ros.errors import ParameterError
from training.engine.storage import write_atomically
from training.study.experiments import Experiment

_BEGIN = "<!-- tables: written by training.study, do not edit -->"
_END = "<!-- end of tables -->"
_METRICS = ("AP", "AUROC", "FPR95")
_UNKNOWN = "–"


@dataclass(frozen=True)
class Line:
    """One printed line of a table: the figures of one score of one row.

    Attributes:
        row: Name of the row, as in the study's file.
        label: The same, with the number of seeds if there are several.
        score: Name of the score.
        cells: Title of a set -> metric -> percent; unknown figures are left out.
        miou: mIoU in percent, the same for all scores of a row.
    """

    row: str
    label: str
    score: str
    cells: Mapping[str, Mapping[str, str]]
    miou: str

    def ap(self, title: str) -> float:
        """Mean AP in percent, as printed; -1 if unknown."""
        return float(self.cells.get(title, {}).get("AP", "-1").split()[0])


def write_tables(
    path: Path,
    study: Mapping[str, Any],
    tables: Mapping[str, Sequence[Experiment]],
    results: Mapping[str, Mapping[str, Any] | None],
) -> None:
    """Replaces the tables between the two markers of a file; a new file gets the markers.

    Rows without a result keep the figures already in the file, with a dash for a metric that the
    file does not have; the names of these rows are printed.

    Args:
        path: The Markdown file.
        study: Content of the study's file.
        tables: Experiments of the tables to write. Other tables of the study stay unchanged.
        results: Results by run folder; None leaves the row out, unless its whole table has no
            result.

    Raises:
        ParameterError: There is no result at all, or an old line does not fit its table.
        OutputError: The file cannot be written.
    """
    if not any(results.get(each.folder) for each in itertools.chain(*tables.values())):
        raise ParameterError(f"{path}: not written, no row of {', '.join(tables)} has a result")
    before, block, after = "", "", "\n"
    if path.exists():
        text = path.read_text(encoding="utf-8")
        before, _, rest = text.partition(_BEGIN)
        block, _, after = rest.partition(_END)
    standing = {
        part.partition("\n")[0]: part.strip() for part in re.split(r"^(?=### )", block, flags=re.M)
    }
    titles = [where["title"] for where in study["sets"].values()]
    parts = []
    for key, table in study["tables"].items():
        heading = f"### {table['title']}"
        part = standing.get(heading, "")
        if key in tables:
            lines = _lines(table, tables[key], study["sets"], results, part)
            part = "\n".join([heading, "", *_render(lines, titles)]) if lines else part
        parts.append(part)
    content = "\n\n".join([_BEGIN, *filter(None, parts), _END])
    write_atomically(path, lambda file: file.write((before + content + after).encode()))


def read_table(text: str) -> Iterator[Line]:
    """Parses a table written by :func:`write_tables`, also an old one without AUROC.

    Raises:
        ParameterError: A line does not fit the header.
    """
    rows = [line for line in text.splitlines() if line.startswith("|")]
    if not rows:
        return
    columns = [re.fullmatch(r"(.+?) ((?:\S+ / )*\S+)", name) for name in _split(rows[0])[2:-1]]
    label = miou = ""
    for line in rows[2:]:
        try:
            first, score, *cells, last = _split(line)
            figures = {
                column[1]: _figures(column[2], cell)
                for column, cell in zip(columns, cells, strict=True)
                if column
            }
        except (ValueError, IndexError) as error:
            raise ParameterError(f"a line that does not fit its table: {line}") from error
        label, miou = (first, last) if first else (label, miou)
        yield Line(re.sub(r" \(\d+ seeds\)$", "", label), label, score.strip("`"), figures, miou)


def _figures(metrics: str, cell: str) -> dict[str, str]:
    """Metric -> figure of a cell; raises ValueError if one is not a number."""
    pairs = zip(metrics.split(" / "), cell.split(" / "), strict=True)
    known = {metric: text for metric, text in pairs if text != _UNKNOWN}
    for text in known.values():
        float(text.split()[0])
    return known


def _lines(
    table: Mapping[str, Any],
    rows: Sequence[Experiment],
    sets: Mapping[str, Mapping[str, str]],
    results: Mapping[str, Mapping[str, Any] | None],
    standing: str,
) -> list[Line]:
    """Lines of a table: from results where there are any, else the old ones, named in a note."""
    by_name: dict[str, list[Experiment]] = {}
    for row in rows:
        by_name.setdefault(row.row, []).append(row)
    old = [line for line in read_table(standing) if line.score in table["scores"]]
    any_measured = any(results.get(row.folder) for row in rows)
    lines, kept = [], []
    for name, seeds in by_name.items():
        found = [result for row in seeds if (result := results.get(row.folder))]
        if found:
            lines += [
                _measured(name, score, found, sets)
                for score in table["scores"]
                if all(score in result["sets"][key] for result in found for key in sets)
            ]
        elif not any_measured or not any(row.folder in results for row in seeds):
            stands = [line for line in old if line.row == name]
            lines += stands
            kept += [name] if stands else []
    if kept:
        print(f"kept as they stand, without a result: {table['title']}: {', '.join(kept)}")
    return lines


def _measured(
    row: str,
    score: str,
    results: Sequence[Mapping[str, Any]],
    sets: Mapping[str, Mapping[str, str]],
) -> Line:
    """One line, from the results of all seeds of a row."""
    cells = {}
    for key, where in sets.items():
        figures = [result["sets"][key][score] for result in results]
        cells[where["title"]] = {
            metric: _percent([seed[metric] for seed in figures])
            for metric in _METRICS
            if all(metric in seed for seed in figures)
        }
    label = row + (f" ({len(results)} seeds)" if len(results) > 1 else "")
    return Line(row, label, score, cells, _percent([result["mIoU"] for result in results]))


def _render(lines: Sequence[Line], titles: Sequence[str]) -> Iterator[str]:
    """Renders lines; a row's first line has name and mIoU, and each set's best AP is bold."""
    header = ["", "score", *(f"{title} {' / '.join(_METRICS)}" for title in titles), "mIoU"]
    yield _join(header)
    yield _join(["---"] * len(header))
    best = {title: max((line.ap(title) for line in lines), default=-1.0) for title in titles}
    named = ""
    for line in lines:
        first, named = line.row != named, line.row
        cells = [line.label if first else "", f"`{line.score}`"]
        for title, highest in best.items():
            figures = [line.cells.get(title, {}).get(metric, _UNKNOWN) for metric in _METRICS]
            if figures[0] != _UNKNOWN and line.ap(title) == highest:
                figures[0] = f"**{figures[0]}**"
            cells.append(" / ".join(figures))
        yield _join([*cells, line.miou if first else ""])


def _percent(values: Sequence[float]) -> str:
    """Mean in percent, with the standard deviation if there are several values."""
    text = f"{100 * statistics.fmean(values):.1f}"
    return f"{text} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else text


def _split(line: str) -> list[str]:
    return [cell.replace("*", "").strip() for cell in line.split("|")[1:-1]]


def _join(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"

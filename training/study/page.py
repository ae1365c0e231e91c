# SPDX-License-Identifier: Apache-2.0
"""The generated part of docs/results.md: the papers' findings and the tables, from the results."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.metrics.resampling import FIGURES
from training.engine.storage import write_atomically
from training.study.bootstrap import Estimate
from training.study.results import Results

_BEGIN = "<!-- written by training.study, do not edit -->"
_END = "<!-- end of what training.study wrote -->"
# Signs of the differences -> heading.
_VERDICTS = {
    (1,): "Hold here",
    (-1,): "Do not hold here",
    (-1, 1): "Differ from set to set",
    (): "Could not be told",
}
# One seed's luck can look like a finding, so there is no verdict before all seeds have run.
_UNFINISHED = "Not judged yet, as some seeds have not run"


def write_page(path: Path, study: Mapping[str, Any], results: Results) -> None:
    """Replaces what is between the two markers of a file; a new file gets the markers.

    Args:
        path: The Markdown file.
        study: Content of the study's file: titles, questions and what the findings mean.
        results: See :mod:`training.study.results`. What has no result is left out.

    Raises:
        ParameterError: The file has only one of the markers.
        OutputError: It cannot be written.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else f"{_BEGIN}\n{_END}\n"
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ParameterError(f"{path}: lacks the lines {_BEGIN!r} and {_END!r}")
    blocks = [_BEGIN, *_findings(study, results), *_tables(study, results), _END]
    content = before + "\n\n".join(blocks) + after
    write_atomically(path, lambda file: file.write(content.encode()))


def shown(estimate: Estimate) -> str:
    """A difference as the page shows it."""
    return f"{estimate.value:+.1f} [{estimate.low:.1f}, {estimate.high:.1f}]"


def _findings(study: Mapping[str, Any], results: Results) -> Iterator[str]:
    """A list by verdict, and a table of all comparisons."""
    titles = {name: where["title"] for name, where in study["sets"].items()}
    headings = (*_VERDICTS.values(), _UNFINISHED)
    by_verdict: dict[str, list[str]] = {heading: [] for heading in headings}
    lines = [["finding", "comparison", "figure", *titles.values()]]
    for finding in study.get("findings") or ():
        pairs = results["findings"].get(finding["finding"])
        if pairs is None:
            continue
        clear: dict[int, list[str]] = {1: [], -1: []}
        compared = 0
        for pair in pairs:
            for figure in next(iter(pair["sets"].values())):
                cells = []
                for name in titles:
                    if name not in pair["sets"]:
                        cells.append("")
                        continue
                    estimate = Estimate(*pair["sets"][name][figure])
                    sign = -estimate.sign if figure == "FPR95" else estimate.sign
                    compared += 1
                    if sign:
                        clear[sign].append(f"{figure} on {titles[name]} ({_versus(pair)})")
                    cells.append(f"**{shown(estimate)}**" if sign else shown(estimate))
                lines.append([finding["finding"], _versus(pair), figure, *cells])
        parts = [
            f"; {word} in {len(clear[sign])} of {compared}: {', '.join(clear[sign])}"
            for sign, word in ((1, "clear"), (-1, "clear the other way"))
            if clear[sign]
        ]
        verdict = _VERDICTS[tuple(sign for sign in (-1, 1) if clear[sign])]
        if _fewest_seeds(finding, results) < len(study["seeds"]):
            verdict = _UNFINISHED
        by_verdict[verdict].append(
            f"- {finding['finding']} ({finding['source']}){''.join(parts)}."
        )
    if len(lines) > 1:
        yield "## The papers' findings"
        for heading, found in by_verdict.items():
            if found:
                yield f"**{heading}**"
                yield "\n".join(found)
        yield _table(lines)


def _fewest_seeds(finding: Mapping[str, Any], results: Results) -> int:
    """Of all rows that a finding compares; one that is not there has none."""
    table = results["tables"].get(finding["table"], {})
    names = {side[0] for pair in finding["pairs"] for side in (pair["better"], pair["worse"])}
    return min(len(table[name]["seeds"]) if name in table else 0 for name in names)


def _versus(pair: Mapping[str, Any]) -> str:
    """Names the two sides: rows, scores, or both, whichever differ."""
    (row, score), (other_row, other_score) = pair["better"], pair["worse"]
    if row == other_row:
        return f"`{score}` against `{other_score}`, *{row}*"
    if score == other_score:
        return f"*{row}* against *{other_row}*, `{score}`"
    return f"`{score}` of *{row}* against `{other_score}` of *{other_row}*"


def _tables(study: Mapping[str, Any], results: Results) -> Iterator[str]:
    """For each table: its question, the figures, and the differences to the reference row."""
    if results["tables"]:
        yield "## Tables"
    titles = {name: where["title"] for name, where in study["sets"].items()}
    for key, table in study["tables"].items():
        rows = results["tables"].get(key)
        if not rows:
            continue
        yield f"### {table['title']}"
        if "question" in table:
            yield table["question"]
        corpora = list(next(iter(rows.values()))["mIoU"])
        header = ["", "score", *titles.values(), *(f"mIoU {name}" for name in corpora)]
        lines, differences = [header], [header[: 2 + len(titles)]]
        for name, row in rows.items():
            for turn, (score, by_set) in enumerate(row["scores"].items()):
                first = turn == 0
                lines.append(
                    [
                        _label(name, row) if first else "",
                        f"`{score}`",
                        *(_cell(by_set.get(where), _figure) for where in titles),
                        *(seeds_mean(row["mIoU"][c]) if first else "" for c in corpora),
                    ]
                )
                if "difference" in next(iter(by_set.values()))["AP"]:
                    cells = (_cell(by_set.get(where), _difference) for where in titles)
                    differences.append([name, f"`{score}`", *cells])
        yield _table(lines)
        if len(differences) > 1:
            reference = table["reference"]
            yield f"Differences to *{reference}*, bold where the interval leaves out zero:"
            yield _table(differences)
        yield "; ".join(f"{part} {_sources(rows, part)}" for part in ("commit", "date", "device"))


def _sources(rows: Mapping[str, Mapping[str, Any]], part: str) -> str:
    every = (value for row in rows.values() for value in row[part].split(", "))
    return ", ".join(dict.fromkeys(every))


def _label(name: str, row: Mapping[str, Any]) -> str:
    seeds = len(row["seeds"])
    return name if row["seeds"] == [0] else f"{name} ({seeds} seed{'s' if seeds > 1 else ''})"


def _cell(by_figure: Mapping[str, Any] | None, show: Any) -> str:
    return "" if by_figure is None else "<br>".join(show(n, by_figure[n]) for n in FIGURES)


def _figure(name: str, figure: Mapping[str, Sequence[float]]) -> str:
    low, high = figure["interval"]
    return f"{name} {seeds_mean(figure['seeds'])} [{low:.1f}, {high:.1f}]"


def _difference(name: str, figure: Mapping[str, Sequence[float]]) -> str:
    estimate = Estimate(*figure["difference"])
    text = f"{name} {shown(estimate)}"
    return f"**{text}**" if estimate.sign else text


def seeds_mean(values: Sequence[float]) -> str:
    """Mean with one decimal, and the standard deviation if there are several."""
    text = f"{statistics.fmean(values):.1f}"
    return f"{text} ± {statistics.stdev(values):.1f}" if len(values) > 1 else text


def _table(lines: Sequence[Sequence[str]]) -> str:
    header, *rows = lines
    every = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in every)

# SPDX-License-Identifier: Apache-2.0
"""Tables of figures: how they are put together, and their forms: Markdown, LaTeX, aligned text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

UNDEFINED = "–"

_LATEX_SIGNS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    "±": r"\ensuremath{\pm}",
    "↑": r"\ensuremath{\uparrow}",
    "↓": r"\ensuremath{\downarrow}",
}


@dataclass(frozen=True)
class Cell:
    """A figure as text, and whether it is the best of the figures it is compared with."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Column:
    """A column of figures; neighbours of the same group share a heading."""

    title: str
    group: str = ""


@dataclass(frozen=True)
class Row:
    """What the row is about, and its figures."""

    labels: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table for people.

    Attributes:
        key: Short unique name: the anchor in HTML and the label in LaTeX.
        title: What it shows.
        label_titles: Headings of the rows' labels.
        columns: One a figure.
        rows: Each with as many labels and cells as the two above.
        note: How to read it; may be empty.
    """

    key: str
    title: str
    label_titles: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    note: str = ""

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Group headings, and how many columns each spans."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans

    @property
    def has_groups(self) -> bool:
        """Whether any column has a group heading."""
        return any(column.group for column in self.columns)

    def shown_labels(self) -> list[tuple[str, ...]]:
        """Labels of each row; those that repeat the row above are empty."""
        shown: list[tuple[str, ...]] = []
        above: tuple[str, ...] = ()
        for row in self.rows:
            same = 0
            while same < len(above) - 1 and row.labels[same] == above[same]:
                same += 1
            shown.append(("",) * same + row.labels[same:])
            above = row.labels
        return shown


@dataclass(frozen=True)
class Figure:
    """A figure that tables show.

    Attributes:
        title: Heading of its column.
        get: Reads it off an entry, or whatever the table lists; None where not defined.
        higher_is_better: None where neither is.
        form: How the number is written.
    """

    title: str
    get: Callable[[Any], float | str | None]
    higher_is_better: bool | None = None
    form: str = ".2f"


def format_number(value: float | str | None, form: str = ".2f") -> str:
    """A figure for people; a dash where it is not defined."""
    if value is None:
        return UNDEFINED
    return value if isinstance(value, str) else format(value, form)


def marked_cells(
    values: Sequence[float | str | None], figure: Figure, blocks: Sequence[str] | None = None
) -> list[Cell]:
    """Formats figures and marks the best of all, or of each block."""
    blocks = blocks if blocks is not None else [""] * len(values)
    best = {block: _best(values, blocks, block, figure) for block in set(blocks)}
    return [
        Cell(format_number(value, figure.form), value is not None and value == best[block])
        for value, block in zip(values, blocks, strict=True)
    ]


def _best(
    values: Sequence[float | str | None], blocks: Sequence[str], block: str, figure: Figure
) -> float | None:
    """The best value of a block; None where nothing is better than anything."""
    rivals = [
        value
        for value, own in zip(values, blocks, strict=True)
        if own == block and isinstance(value, (int, float))
    ]
    if figure.higher_is_better is None or len(set(rivals)) < 2:
        return None
    return max(rivals) if figure.higher_is_better else min(rivals)


def heading(figure: Figure) -> str:
    """The title, with an arrow that says which way is better."""
    arrow = {True: " ↑", False: " ↓", None: ""}[figure.higher_is_better]
    return figure.title + arrow


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Leaves of nested dictionaries with their keys joined by dots."""
    leaves = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            leaves += flatten(value, f"{prefix}{key}.")
        else:
            leaves.append((f"{prefix}{key}", value))
    return leaves


def to_markdown(table: Table, level: int = 2) -> str:
    """The table under a heading of this level; the best figures are bold."""
    head = [*table.label_titles, *(_flat(column) for column in table.columns)]
    rulers = ["---"] * len(table.label_titles) + ["---:"] * len(table.columns)
    lines = [_markdown_line([markdown_text(title) for title in head]), _markdown_line(rulers)]
    for labels, row in zip(table.shown_labels(), table.rows, strict=True):
        cells = [f"**{cell.text}**" if cell.best else cell.text for cell in row.cells]
        lines.append(_markdown_line([*map(markdown_name, labels), *cells]))
    parts = [f"{'#' * level} {markdown_text(table.title)}", "\n".join(lines)]
    if table.note:
        parts.append(markdown_text(table.note))
    return "\n\n".join(parts)


def to_latex(table: Table) -> str:
    """A ``table`` environment for the package booktabs; the best figures are bold."""
    count = len(table.label_titles)
    head = [_latex_row([*table.label_titles, *(column.title for column in table.columns)])]
    if table.has_groups:
        head = [*_latex_groups(table), *head]
    body: list[str] = []
    for labels, row in zip(table.shown_labels(), table.rows, strict=True):
        if body and count > 1 and labels[0]:
            body.append(r"\addlinespace")
        cells = [latex_text(cell.text) for cell in row.cells]
        bold = [cell.best for cell in row.cells]
        marked = [
            rf"\textbf{{{text}}}" if best else text for text, best in zip(cells, bold, strict=True)
        ]
        body.append(_latex_line([*map(latex_text, labels), *marked]))
    caption = f"{table.title}. {table.note}" if table.note else f"{table.title}."
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex_text(caption)}}}",
            rf"\label{{tab:{re.sub('[^a-zA-Z0-9]+', '-', table.key)}}}",
            rf"\begin{{tabular}}{{{'l' * count}{'r' * len(table.columns)}}}",
            r"\toprule",
            *head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def to_text(table: Table) -> str:
    """Aligned columns for a terminal; a star marks the best figures."""
    count = len(table.label_titles)
    # The space aligns headings with figures, which end in a star or a space.
    head = [*table.label_titles, *(f"{column.title} " for column in table.columns)]
    body = [
        [*labels, *(f"{cell.text}{'*' if cell.best else ' '}" for cell in row.cells)]
        for labels, row in zip(table.shown_labels(), table.rows, strict=True)
    ]
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    above = [_group_line(table, widths)] if table.has_groups else []
    ruler = "  ".join("-" * width for width in widths)
    lines = [_aligned(row, widths, count) for row in (head, *body)]
    note = ["", table.note] if table.note else []
    return "\n".join([table.title, "", *above, lines[0], ruler, *lines[1:], *note])


def markdown_text(text: str) -> str:
    """Escapes text for Markdown, including tables."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(text.split()))


def markdown_name(text: str) -> str:
    """A name: plain ones as code, which reads better than an escaped underscore."""
    return f"`{text}`" if re.fullmatch(r"[\w.+-]+", text) else markdown_text(text)


def latex_text(text: str) -> str:
    """Escapes text for LaTeX."""
    return "".join(_LATEX_SIGNS.get(sign, sign) for sign in " ".join(text.split()))


def _flat(column: Column) -> str:
    return f"{column.group} {column.title}".strip()


def _markdown_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_row(texts: Sequence[str]) -> str:
    return _latex_line([latex_text(text) for text in texts])


def _latex_groups(table: Table) -> list[str]:
    """The line of common headings, and the rules below them."""
    first = len(table.label_titles) + 1
    cells, rules = [""] * (first - 1), []
    for name, span in table.groups:
        cells.append(rf"\multicolumn{{{span}}}{{c}}{{{latex_text(name)}}}")
        if name:
            rules.append(rf"\cmidrule(lr){{{first}-{first + span - 1}}}")
        first += span
    return [_latex_line(cells), "".join(rules)]


def _aligned(cells: Sequence[str], widths: Sequence[int], labels: int) -> str:
    return "  ".join(
        cell.ljust(width) if index < labels else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ).rstrip()


def _group_line(table: Table, widths: list[int]) -> str:
    """The line of common headings; widens a group's first column where its name is longer."""
    at = len(table.label_titles)
    parts = [" " * (sum(widths[:at]) + 2 * (at - 1))]
    for name, span in table.groups:
        width = sum(widths[at : at + span]) + 2 * (span - 1)
        if len(name) + 1 > width:
            widths[at] += len(name) + 1 - width
            width = len(name) + 1
        parts.append(f"{name} ".rjust(width))
        at += span
    return "  ".join(parts).rstrip()

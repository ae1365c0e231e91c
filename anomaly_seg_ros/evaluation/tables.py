# SPDX-License-Identifier: Apache-2.0
"""The tables of a benchmark, in the papers' shapes, and the files beside ``benchmark.json``.

Files: ``benchmark.md``, ``benchmark.tex`` (package booktabs) and ``benchmark.csv``, one flat row
per model, data set and score with every figure at full precision.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomaly_seg_ros.evaluation.results import (
    FPR95_KEYS,
    Benchmark,
    DistanceBin,
    Replay,
    Run,
    ScoreFigures,
)
from anomaly_seg_ros.evaluation.table_formats import (
    UNDEFINED,
    Cell,
    Column,
    Figure,
    Row,
    Table,
    flatten,
    format_number,
    heading,
    latex_text,
    markdown_text,
    marked_cells,
    to_latex,
    to_markdown,
    to_text,
)
from anomaly_seg_ros.io.atomic import write_atomically


@dataclass(frozen=True)
class Entry:
    """One score of one run; the score is empty if the model has none in any run."""

    run: Run
    model: str
    score: str

    @property
    def figures(self) -> ScoreFigures:
        """Figures of this score; all undefined in a run without anomaly masks."""
        return self.run.scores.get(self.score) or ScoreFigures()


def _section(name: str, key: str) -> Callable[[Entry], float | str | None]:
    """Reads a figure in an optional section of the score's figures."""

    def get(entry: Entry) -> float | str | None:
        return getattr(getattr(entry.figures, name), key, None)

    return get


def _open_set(key: str) -> Callable[[Entry], float | str | None]:
    def get(entry: Entry) -> float | str | None:
        return getattr((entry.run.open_set or {}).get(entry.score), key, None)

    return get


def _fpr95(key: str) -> Callable[[Entry], float | None]:
    return lambda entry: entry.figures.FPR95_conventions.get(key)


AP = Figure("AP", lambda entry: entry.figures.AP, True)
AUROC = Figure("AUROC", lambda entry: entry.figures.AUROC, True)
FPR95 = Figure("FPR95", lambda entry: entry.figures.FPR95, False)
MIOU = Figure("mIoU", lambda entry: getattr(entry.run.segmentation, "mIoU", None), True)
ACCURACY = Figure(
    "pixel accuracy", lambda entry: getattr(entry.run.segmentation, "pixel_accuracy", None), True
)

POOLED_COLUMNS = (AP, AUROC, FPR95)
PER_IMAGE = (
    Figure("AP", _section("per_image", "AP"), True),
    Figure("AUROC", _section("per_image", "AUROC"), True),
    Figure("FPR95", _section("per_image", "FPR95"), False),
)
COMPONENTS = (
    Figure("sIoU", _section("components", "sIoU"), True),
    Figure("PPV", _section("components", "PPV"), True),
    Figure("mean F1", _section("components", "mean_F1"), True),
)
OBJECTS = (
    Figure("pixels: mean F1", _section("objects", "pixels_mean_F1"), True),
    Figure("pixels: PPV", _section("objects", "pixels_PPV"), True),
    Figure("objects: mean F1", _section("objects", "mean_F1"), True),
    Figure("sIoU", _section("objects", "sIoU"), True),
    Figure("PPV", _section("objects", "PPV"), True),
    Figure("found", _section("objects", "found"), True),
    Figure("false alarms per frame", _section("objects", "false_alarms"), False, form=".2f"),
    Figure("smallest score", _section("objects", "min_score"), form=".3g"),
)
POOLED = (
    AUROC,
    *(Figure(f"FPR95 {key.replace('_', ' ')}", _fpr95(key), False) for key in FPR95_KEYS),
    Figure("best F1", _section("best_F1", "F1"), True),
    Figure("its threshold", _section("best_F1", "threshold"), form=".4g"),
)
OPEN_SET = (
    Figure("closed mIoU", _open_set("closed_mIoU"), True),
    Figure("open mIoU", _open_set("open_mIoU"), True),
    Figure("gap", _open_set("gap"), False),
    Figure("mean F1", _open_set("mean_F1"), True),
    Figure("anomaly IoU", _open_set("anomaly_IoU"), True),
    Figure("TPR", _open_set("TPR")),
    Figure("FPR", _open_set("FPR")),
    Figure("threshold from", _open_set("threshold_from")),
)
# Of one range of distances.
RANGE = (
    Figure("AP", lambda part: getattr(part, "AP", None), True),
    Figure("FPR95", lambda part: getattr(part, "FPR95", None), False),
)
CALIBRATION = (
    Figure("threshold", _section("calibration", "threshold"), form=".3g"),
    Figure("target FPR", _section("calibration", "target_FPR")),
    Figure("measured FPR", _section("calibration", "measured_FPR")),
    Figure("measured TPR", _section("calibration", "measured_TPR")),
    Figure("ECE", _section("calibration", "ECE"), False),
)


def entries_of(benchmark: Benchmark) -> list[Entry]:
    """Lists every score of every run, model by model.

    A model that ran in several ways is named with its way. A run without anomaly masks has an
    entry for each score that its model has elsewhere, so that its mIoU is in the same rows.
    """
    ways: dict[tuple[str, str], set[str]] = {}
    for run in benchmark.runs:
        ways.setdefault((run.model, run.data), set()).add(run.via)
    several = {model for (model, _), vias in ways.items() if len(vias) > 1}
    runs: dict[str, list[Run]] = {}
    for run in benchmark.runs:
        name = f"{run.model} ({run.via})" if run.model in several else run.model
        runs.setdefault(name, []).append(run)
    entries = []
    for model, own in runs.items():
        known = dict.fromkeys(score for run in own for score in run.scores) or {"": None}
        entries += [Entry(run, model, score) for run in own for score in run.scores or known]
    return entries


def benchmark_tables(benchmark: Benchmark) -> list[Table]:
    """All tables that the benchmark has figures for."""
    entries = entries_of(benchmark)
    tables = [
        _by_set(
            "pooled",
            "Anomaly scores, pixels of each data set pooled",
            entries,
            (AP, FPR95, MIOU),
            "Percent; the best figure of each column is marked.",
        ),
        _listed("conventions", "AUROC, FPR95 in the four conventions, best F1", entries, POOLED),
        _by_set(
            "per-image",
            "Anomaly scores, means over images",
            entries,
            PER_IMAGE,
            _per_image_note(entries),
        ),
        _by_set(
            "components",
            "Components as SegmentMeIfYouCan counts them",
            entries,
            COMPONENTS,
            _sizes_note(entries),
        ),
        _listed(
            "objects",
            "Components at the deployed threshold, as pixels and as objects",
            entries,
            OBJECTS,
        ),
        _by_set("closed-set", "Known classes", entries, (MIOU, ACCURACY), labels=("model",)),
        _listed("open-set", "Open-set segmentation", entries, OPEN_SET),
        *_by_distance(entries),
        _listed("calibration", "The deployed threshold and the unit score", entries, CALIBRATION),
    ]
    return [table for table in tables if table is not None]


def run_table(run: Run) -> Table:
    """The pooled figures of a single run, a row per score."""
    entries = [Entry(run, run.model, score) for score in run.scores]
    values = [marked_cells([f.get(entry) for entry in entries], f) for f in POOLED_COLUMNS]
    rows = zip(run.scores, zip(*values, strict=True), strict=True)
    title = " on ".join(filter(None, [run.model, run.data]))
    if run.replay is not None:
        sent, lost = run.replay.sent, run.replay.lost
        title += f": {sent} frames sent, {run.frames} scored, {lost} lost"
    columns = tuple(Column(f"{figure.title} [%]") for figure in POOLED_COLUMNS)
    lines = tuple(Row((score,), cells) for score, cells in rows)
    return Table("scores", title, ("score",), columns, lines)


def format_run(run: Run) -> str:
    """The table of a single run and what else was measured, without a final newline."""
    parts = [to_text(run_table(run))]
    if lines := _summary_lines(run):
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def write_tables(benchmark: Benchmark, folder: str | Path) -> list[Path]:
    """Writes ``benchmark.md``, ``benchmark.tex`` and ``benchmark.csv``; returns their paths.

    Raises:
        OutputError: One cannot be written; nothing half-written is left.
    """
    texts = {
        "benchmark.md": format_markdown(benchmark),
        "benchmark.tex": format_latex(benchmark),
        "benchmark.csv": format_csv(benchmark),
    }
    paths = [Path(folder) / name for name in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_atomically(path, text.encode())
    return paths


def format_markdown(benchmark: Benchmark) -> str:
    """A Markdown document: all tables, notes, and how the figures are defined."""
    parts = ["# Benchmark", *map(to_markdown, benchmark_tables(benchmark))]
    if notes := _notes(benchmark):
        parts.append("## Notes\n\n" + "\n".join(f"- {markdown_text(note)}" for note in notes))
    lines = [
        f"- {markdown_text(name)}: {markdown_text(text)}"
        for name, text in convention_lines(benchmark)
    ]
    if lines:
        parts.append("## Conventions\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def format_latex(benchmark: Benchmark) -> str:
    r"""``table`` environments, to be used with ``\input`` and the package booktabs."""
    parts = [r"% Needs \usepackage{booktabs}.", *map(to_latex, benchmark_tables(benchmark))]
    notes = [f"% {latex_text(note)}" for note in _notes(benchmark)]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])]) + "\n"


def format_text(benchmark: Benchmark) -> str:
    """All tables for a terminal, without a final newline."""
    parts = [to_text(table) for table in benchmark_tables(benchmark)]
    if notes := _notes(benchmark):
        parts.append("\n".join(f"note: {note}" for note in notes))
    return "\n\n".join(parts)


def format_csv(benchmark: Benchmark) -> str:
    """One flat row per model, data set and score (RFC 4180); what is not defined stays empty.

    A run without anomaly masks has no score, but one row for its closed-set figures.
    Names of nested figures are joined with dots: ``per_image.AP``, ``distance.5-10m.AP``.
    """
    rows = []
    for run in benchmark.runs:
        scores: list[str | None] = [*run.scores]
        rows += [_flat_row(run, score) for score in scores or [None]]
    # A dictionary keeps the order in which the columns appear.
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def convention_lines(benchmark: Benchmark) -> list[tuple[str, str]]:
    """Names and texts of the conventions, nested ones joined with dots."""
    return [
        (name, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
        for name, value in flatten(benchmark.conventions)
    ]


def _by_set(
    key: str,
    title: str,
    entries: Sequence[Entry],
    figures: Sequence[Figure],
    note: str = "",
    labels: tuple[str, ...] = ("model", "score"),
) -> Table | None:
    """The papers' shape: rows model x score, columns data set x figure."""
    found = {(*_labels(entry, labels), entry.run.data): entry for entry in entries}
    rows = list(dict.fromkeys(_labels(entry, labels) for entry in entries))
    columns, values = [], []
    for data in dict.fromkeys(entry.run.data for entry in entries):
        for figure in figures:
            column = [
                figure.get(found[(*row, data)]) if (*row, data) in found else None for row in rows
            ]
            if any(value is not None for value in column):
                columns.append(Column(heading(figure), data))
                values.append(marked_cells(column, figure))
    return _table(key, title, labels, columns, rows, values, note)


def _labels(entry: Entry, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(getattr(entry, name) for name in names)


def _listed(
    key: str, title: str, entries: Sequence[Entry], figures: Sequence[Figure]
) -> Table | None:
    """For many figures: rows data set x model x score; the best within each data set."""
    kept = [
        entry
        for data in dict.fromkeys(entry.run.data for entry in entries)
        for entry in entries
        if entry.run.data == data and any(figure.get(entry) is not None for figure in figures)
    ]
    rows = [(entry.run.data, entry.model, entry.score) for entry in kept]
    columns, values = [], []
    for figure in figures:
        column = [figure.get(entry) for entry in kept]
        if any(value is not None for value in column):
            columns.append(Column(heading(figure)))
            values.append(marked_cells(column, figure, [entry.run.data for entry in kept]))
    return _table(key, title, ("data set", "model", "score"), columns, rows, values)


def _by_distance(entries: Sequence[Entry]) -> list[Table]:
    """DenseHybrid's Table 6, one per run: rows ranges, columns score x (AP, FPR95)."""
    runs: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        if entry.figures.distance:
            runs.setdefault((entry.model, entry.run.data), []).append(entry)
    return [
        _ranges(f"distance-{number}", f"By distance: {model} on {data}", found)
        for number, ((model, data), found) in enumerate(runs.items(), start=1)
    ]


def _ranges(key: str, title: str, entries: Sequence[Entry]) -> Table:
    ranges: dict[tuple[float, float], dict[str, DistanceBin]] = {}
    for entry in entries:
        for part in entry.figures.distance or ():
            ranges.setdefault((part.from_m, part.to_m), {})[entry.score] = part
    columns = [Column(heading(figure), entry.score) for entry in entries for figure in RANGE]
    rows = []
    for (low, high), parts in ranges.items():
        # The scores are side by side, so the best of a range is the best of its row.
        cells = [
            marked_cells([figure.get(parts.get(entry.score)) for entry in entries], figure)
            for figure in RANGE
        ]
        pairs = zip(*cells, strict=True)
        rows.append(Row((f"{low:g}–{high:g} m",), tuple(cell for pair in pairs for cell in pair)))
    note = "Percent; a range holds its lower end. The best figure of each range is marked."
    return Table(key, title, ("range",), tuple(columns), tuple(rows), note)


def _table(
    key: str,
    title: str,
    labels: tuple[str, ...],
    columns: Sequence[Column],
    rows: Sequence[tuple[str, ...]],
    values: Sequence[Sequence[Cell]],
    note: str = "",
) -> Table | None:
    """Puts columns of cells together; None without any."""
    if not columns:
        return None
    lines = (
        Row(row, tuple(cells)) for row, cells in zip(rows, zip(*values, strict=True), strict=True)
    )
    kept = tuple(line for line in lines if any(cell.text != UNDEFINED for cell in line.cells))
    return Table(key, title, labels, tuple(columns), kept, note)


def _per_image_note(entries: Iterable[Entry]) -> str:
    counted = _by_data(entries, lambda figures: figures.per_image and figures.per_image.images)
    return f"Percent; means over the images that have both kinds of pixels: {counted}."


def _sizes_note(entries: Iterable[Entry]) -> str:
    used = _by_data(entries, lambda figures: figures.components and figures.components.sizes)
    return f"Percent, at the threshold of the best pixel F1; smallest components: {used}."


def _by_data(entries: Iterable[Entry], read: Callable[[ScoreFigures], object]) -> str:
    """Lists each data set with a value, leaving out those without one."""
    found = ((entry.run.data, read(entry.figures)) for entry in entries)
    values = {data: value for data, value in found if value is not None}
    return ", ".join(f"{data} {value}" for data, value in values.items())


def _notes(benchmark: Benchmark) -> list[str]:
    return [
        f"{run.model} on {run.data} ({run.via}): {note}"
        for run in benchmark.runs
        for note in run.notes
    ]


def _summary_lines(run: Run) -> list[str]:
    lines, replay = [], run.replay or Replay()
    if (closed := run.segmentation) is not None:
        miou, accuracy = format_number(closed.mIoU), format_number(closed.pixel_accuracy)
        lines.append(f"segmentation: mIoU {miou} %, pixel accuracy {accuracy} %")
    if (node := replay.node) is not None:
        difference = format_number(node.max_abs_difference_to_in_process, ".2g")
        lines.append(
            f"node ({node.score}): AP {format_number(node.AP)} % from its messages; largest "
            f"difference to in-process {difference}"
        )
    if (latency := replay.latency_ms) is not None:
        lines.append(
            f"latency: median {latency.median:.1f} ms, 95th percentile {latency.p95:.1f} ms, "
            f"99th {latency.p99:.1f} ms, worst {latency.max:.1f} ms"
        )
    if (flicker := replay.flicker) is not None:
        mask, labels = format_number(flicker.mask), format_number(flicker.labels)
        lines.append(f"from frame to frame: mask of {mask} %, labels of {labels} % of the pixels")
    lines += [f"dropped by {who}: {count}" for who, count in replay.dropped.items() if count]
    return [*lines, *(f"note: {note}" for note in run.notes)]


def _flat_row(run: Run, score: str | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "model": run.model,
        "dataset": run.dataset,
        "data": run.data,
        "via": run.via,
        "frames": run.frames,
        **{f"pixels.{kind}": count for kind, count in run.pixels.items()},
        "score": score,
    }
    if score is not None:
        figures = dataclasses.asdict(run.scores[score])
        bins = figures.pop("distance") or []
        row |= flatten(figures)
        for part in bins:
            name = f"distance.{part.pop('from_m'):g}-{part.pop('to_m'):g}m"
            row |= {f"{name}.{key}": value for key, value in part.items()}
        if run.open_set is not None and score in run.open_set:
            row |= flatten({"open_set": dataclasses.asdict(run.open_set[score])})
    if run.segmentation is not None:
        row |= flatten({"segmentation": dataclasses.asdict(run.segmentation)})
    row["seconds"] = run.seconds
    return row

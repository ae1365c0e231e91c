"""The benchmark as one self-contained HTML page: tables, charts, pictures, conventions.

It shares its looks with the report of a single evaluation (``evaluation/report.css``); its markup
is in ``report.html``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup

from anomaly_seg_ros.evaluation import plots
from anomaly_seg_ros.evaluation.compare import read_image_counts
from anomaly_seg_ros.evaluation.figures import Benchmark
from anomaly_seg_ros.evaluation.image_counts import ImageCounts
from anomaly_seg_ros.evaluation.tables import (
    AP,
    FPR95,
    Entry,
    Figure,
    benchmark_tables,
    convention_lines,
    entries_of,
)
from anomaly_seg_ros.io.atomic import write_atomically

FILE_NAME = "benchmark.html"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

Pictures = Mapping[tuple[str, str], Sequence[tuple[str, bytes]]]
"""(model, data) -> pictures as (name, PNG)."""

_TEMPLATES = Path(__file__).parent
_CURVE_POINTS = 200


@dataclass(frozen=True)
class Bar:
    """One bar of a chart: whose, how long (percent), and whether it is the best one."""

    model: str
    score: str
    colour: int
    value: float
    best: bool


@dataclass(frozen=True)
class DataSection:
    """The charts of one data set.

    Attributes:
        name: Of the data.
        facts: Frames and pixels, as a phrase.
        bars: By figure, with a phrase that says which way is better.
        curves: Precision over recall, one chart a model.
    """

    name: str
    facts: str
    bars: dict[str, list[Bar]]
    curves: dict[str, Markup]


def write_report(
    benchmark: Benchmark, folder: str | Path, pictures: Pictures | None = None
) -> Path:
    """Writes ``benchmark.html`` beside ``benchmark.json`` and returns its path.

    Args:
        benchmark: The figures.
        folder: With ``images/``, whose counts give the curves; without them there are none.
        pictures: To show below the charts.

    Raises:
        OutputError: It cannot be written, or an image's counts cannot be read.
    """
    folder = Path(folder)
    path = folder / FILE_NAME
    write_atomically(path, render(benchmark, read_counts(benchmark, folder), pictures).encode())
    return path


def read_counts(benchmark: Benchmark, folder: Path) -> dict[tuple[str, str, str], ImageCounts]:
    """The counts of images that lie beside a benchmark, by the key of their run."""
    found = {run.key: read_image_counts(folder, run) for run in benchmark.runs}
    return {key: counts for key, counts in found.items() if counts is not None}


def render(
    benchmark: Benchmark,
    counts: Mapping[tuple[str, str, str], ImageCounts] | None = None,
    pictures: Pictures | None = None,
) -> str:
    """Returns the page.

    Args:
        benchmark: The figures.
        counts: By the key of a run; runs without any have no curves.
        pictures: To show below the charts.

    Raises:
        ValueError: A picture is no PNG.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["inline_png"] = inline_png
    entries = [entry for entry in entries_of(benchmark) if entry.score in entry.run.scores]
    names = dict.fromkeys(entry.score for entry in entries)
    colours = {name: index % plots.COLOURS + 1 for index, name in enumerate(names)}
    css = (_TEMPLATES / "report.css", _TEMPLATES / "suite_report.css")
    return environment.get_template("suite_report.html").render(
        css=Markup("\n".join(path.read_text(encoding="utf-8") for path in css)),  # noqa: S704
        runs=benchmark.runs,
        models=list(dict.fromkeys(run.model for run in benchmark.runs)),
        data=list(dict.fromkeys(run.data for run in benchmark.runs)),
        frames=sum({run.data: run.frames for run in benchmark.runs}.values()),
        tables=benchmark_tables(benchmark),
        sections=_sections(entries, counts or {}, colours),
        colours=colours,
        galleries=dict(pictures or {}),
        conventions=convention_lines(benchmark),
        configurations=[
            (run, json.dumps(run.model_configuration, indent=1, ensure_ascii=False))
            for run in benchmark.runs
            if run.model_configuration
        ],
        written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    )


def inline_png(picture: bytes) -> str:
    """A PNG as a data URL.

    Raises:
        ValueError: It is none.
    """
    if not picture.startswith(PNG_SIGNATURE):
        raise ValueError(f"not a PNG: {len(picture)} bytes that start with {picture[:8]!r}")
    return f"data:image/png;base64,{base64.b64encode(picture).decode('ascii')}"


def pr_curve(
    counts: ImageCounts, score: str, points: int = _CURVE_POINTS
) -> tuple[np.ndarray, np.ndarray]:
    """Precision over recall of all images pooled, one point a bin, thinned for plotting.

    Args:
        counts: Of the images.
        score: Name.
        points: At most this many, evenly spread over the recall.

    Returns:
        ``(recall, precision)``, (N,) float64 fractions, recall rising; empty without anomalies.
    """
    positives, negatives = (kind.sum(axis=0)[::-1] for kind in counts.counts(score))
    found, alarms = positives.cumsum(), negatives.cumsum()
    if not found.size or not found[-1]:
        return np.empty(0), np.empty(0)
    wanted = np.linspace(1, found[-1], points)
    at = np.unique(np.searchsorted(found, wanted))
    return found[at] / found[-1], found[at] / (found[at] + alarms[at])


def _sections(
    entries: Sequence[Entry],
    counts: Mapping[tuple[str, str, str], ImageCounts],
    colours: Mapping[str, int],
) -> list[DataSection]:
    by_data: dict[str, list[Entry]] = {}
    for entry in entries:
        by_data.setdefault(entry.run.data, []).append(entry)
    sections = []
    for name, found in by_data.items():
        run = found[0].run
        facts = (
            f"{run.frames:,} frames, {run.pixels.get('anomaly', 0):,} anomalous and "
            f"{run.pixels.get('in_distribution', 0):,} in-distribution pixels"
        )
        bars = {
            "AP in percent, longer is better": _bars(found, AP, colours),
            "FPR95 in percent, shorter is better": _bars(found, FPR95, colours),
        }
        bars = {title: drawn for title, drawn in bars.items() if drawn}
        sections.append(DataSection(name, facts, bars, _pr_charts(found, counts, colours)))
    return sections


def _bars(entries: Sequence[Entry], figure: Figure, colours: Mapping[str, int]) -> list[Bar]:
    values = [figure.get(entry) for entry in entries]
    defined = [value for value in values if isinstance(value, (int, float))]
    best = max(defined, default=0.0) if figure.higher_is_better else min(defined, default=0.0)
    return [
        Bar(entry.model, entry.score, colours[entry.score], value, value == best)
        for entry, value in zip(entries, values, strict=True)
        if isinstance(value, (int, float))
    ]


def _pr_charts(
    entries: Sequence[Entry],
    counts: Mapping[tuple[str, str, str], ImageCounts],
    colours: Mapping[str, int],
) -> dict[str, Markup]:
    """One chart a model, all of one scale."""
    curves: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for entry in entries:
        images = counts.get(entry.run.key)
        if images is not None and entry.score in images.scores:
            recall, precision = pr_curve(images, entry.score)
            if recall.size:
                curves.setdefault(entry.model, {})[entry.score] = recall, precision
    # The first few pixels' precision jumps between 0 and 1: it must not set the scale.
    tops = [
        precision[recall >= 0.02].max(initial=0.0)
        for own in curves.values()
        for recall, precision in own.values()
    ]
    top = min(1.0, plots.nice_ceiling(max(tops, default=1.0)))
    axes = plots.Axes((0, 1), (0, top), "recall", "precision", percent=(True, True), height=300)
    return {
        model: plots.line_chart(
            f"Precision over recall of {model}, one curve a score",
            axes,
            [plots.Series(score, *curve, colours[score]) for score, curve in own.items()],
        )
        for model, own in curves.items()
    }

# SPDX-License-Identifier: Apache-2.0
"""The reports as self-contained HTML pages: ``report.html`` of a bag, ``benchmark.html`` of runs.

A page needs nothing outside itself, reads well in light and dark mode, on paper and with a
screen reader. Both extend ``base.html``; their looks are in ``report.css``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path

import cv2
import jinja2
import numpy as np
import yaml
from markupsafe import Markup

from anomaly_seg_ros import drawing
from anomaly_seg_ros.evaluation import plots
from anomaly_seg_ros.evaluation.image_counts import ImageCounts, read_image_counts
from anomaly_seg_ros.evaluation.pictures import THUMBNAIL_WIDTH, FramePictures
from anomaly_seg_ros.evaluation.results import (
    CONVENTIONS,
    Benchmark,
    Replay,
    Run,
    plain,
)
from anomaly_seg_ros.evaluation.sentence import opening_sentence
from anomaly_seg_ros.evaluation.table_formats import Figure, format_number
from anomaly_seg_ros.evaluation.tables import (
    AP,
    FPR95,
    POOLED_COLUMNS,
    Entry,
    benchmark_tables,
    convention_lines,
    entries_of,
    run_table,
)
from anomaly_seg_ros.io.atomic import write_atomically

BENCHMARK_FILE = "benchmark.html"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

Pictures = Mapping[tuple[str, str], Sequence[tuple[str, bytes]]]
"""(model, data) -> pictures as (name, PNG)."""

_TEMPLATES = Path(__file__).parent
_JPEG_QUALITY = 85


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
        name: Name of the data.
        facts: Frames and pixels, as a phrase.
        bars: Bars by the title of their chart.
        curves: Precision over recall, one chart per model.
    """

    name: str
    facts: str
    bars: dict[str, list[Bar]]
    curves: dict[str, Markup]


def write_run_report(
    run: Run,
    curves: Mapping[str, plots.ScoreCurves],
    pictures: Sequence[FramePictures],
    latencies: Sequence[float],
    path: str | Path,
    class_colours: Mapping[str, Sequence[int]] | None = None,
    frame_browser: str | None = None,
) -> None:
    """Writes the page of a replayed bag; arguments as for :func:`render_run`.

    Raises:
        OutputError: The file cannot be written; nothing half-written is left.
    """
    page = render_run(run, curves, pictures, latencies, class_colours, frame_browser)
    write_atomically(path, page.encode())


def render_run(
    run: Run,
    curves: Mapping[str, plots.ScoreCurves],
    pictures: Sequence[FramePictures] = (),
    latencies: Sequence[float] = (),
    class_colours: Mapping[str, Sequence[int]] | None = None,
    frame_browser: str | None = None,
) -> str:
    """Returns the page of a replayed bag.

    Args:
        run: The figures.
        curves: Curves by score; scores without an entry get none.
        pictures: Rows of pictures; neighbours with the same reason share a heading.
        latencies: Milliseconds per frame, in the order of the frames; may be empty.
        class_colours: Class name -> (red, green, blue), for the legend and the IoU bars.
        frame_browser: Name of a page beside this one that steps through all frames.
    """
    replay, headline = run.replay or Replay(), headline_score(run)
    colours = _colours(run.scores)
    # The headline's curve last, so that it is drawn on top.
    ordered = sorted(curves.items(), key=lambda item: item[0] == headline)
    pr = {name: (curve.recall, curve.precision) for name, curve in ordered}
    configuration = {"input": run.input or {}, **replay.configuration}
    return _render(
        "report.html",
        kind="evaluation",
        run=run,
        replay=replay,
        headline=headline,
        sentence=opening_sentence(run),
        frame_browser=frame_browser,
        tiles=_tiles(run, headline),
        figures=POOLED_COLUMNS,
        table=run_table(run),
        colours=colours,
        has_curves=any(curve.false_positive_rate.size for curve in curves.values()),
        pr_chart=plots.pr_chart(
            "Precision over recall, one curve a score",
            pr,
            plots.precision_top(pr.values()),
            colours,
            headline,
        ),
        roc_chart=plots.roc_chart(dict(ordered), colours, headline),
        histograms={
            name: plots.score_histogram(name, curve)
            for name, curve in curves.items()
            if curve.has_histograms
        },
        galleries=[(reason, list(rows)) for reason, rows in groupby(pictures, lambda p: p.reason)],
        latency_chart=plots.latency_chart(latencies) if len(latencies) > 1 else None,
        class_colours=dict(class_colours or {}),
        unknown_colour=drawing.UNKNOWN_COLOUR,
        configuration=yaml.safe_dump(plain(configuration), sort_keys=False, allow_unicode=True),
        conventions=CONVENTIONS.items(),
    )


def write_benchmark_report(
    benchmark: Benchmark, folder: str | Path, pictures: Pictures | None = None
) -> Path:
    """Writes ``benchmark.html`` beside ``benchmark.json`` and returns its path.

    Args:
        benchmark: The figures.
        folder: Its folder; the counts in ``images/`` give the curves.
        pictures: Pictures to show below the charts.

    Raises:
        OutputError: It cannot be written, or an image's counts cannot be read.
    """
    folder = Path(folder)
    found = {run.key: read_image_counts(folder, run) for run in benchmark.runs}
    counts = {key: images for key, images in found.items() if images is not None}
    path = folder / BENCHMARK_FILE
    write_atomically(path, render_benchmark(benchmark, counts, pictures).encode())
    return path


def render_benchmark(
    benchmark: Benchmark,
    counts: Mapping[tuple[str, str, str], ImageCounts] | None = None,
    pictures: Pictures | None = None,
) -> str:
    """Returns the page of a benchmark.

    Args:
        benchmark: The figures.
        counts: Image counts by the key of a run; runs without any have no curves.
        pictures: Pictures to show below the charts.

    Raises:
        ValueError: A picture is no PNG.
    """
    entries = [entry for entry in entries_of(benchmark) if entry.score in entry.run.scores]
    colours = _colours(entry.score for entry in entries)
    return _render(
        "benchmark.html",
        kind="benchmark",
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
    )


def _render(page: str, **content: object) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": format_number,
        "inline_image": inline_image,
        "png_url": png_url,
    }
    return environment.get_template(page).render(
        css=Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8")),  # noqa: S704 - ours
        written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        **content,
    )


def headline_score(run: Run) -> str | None:
    """The score that the page leads with: the node's, otherwise the one with the best AP."""
    node = run.replay and run.replay.node
    if node and node.score in run.scores:
        return node.score
    defined = {name: own.AP for name, own in run.scores.items() if own.AP is not None}
    return max(defined, key=defined.__getitem__, default=next(iter(run.scores), None))


def inline_image(picture: np.ndarray, lossless: bool = False) -> str:
    """Encodes a picture as a data URL, scaled down to the width of a thumbnail.

    Args:
        picture: (H, W, 3) uint8 RGB.
        lossless: PNG, for masks; otherwise JPEG.
    """
    if picture.shape[1] > THUMBNAIL_WIDTH:
        picture = drawing.fit_width(picture, THUMBNAIL_WIDTH)
    suffix, kind, options = ".jpg", "jpeg", [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    if lossless:
        suffix, kind, options = ".png", "png", [cv2.IMWRITE_PNG_COMPRESSION, 9]
    _, encoded = cv2.imencode(suffix, np.ascontiguousarray(picture[..., ::-1]), options)
    return _data_url(kind, encoded.tobytes())


def png_url(picture: bytes) -> str:
    """A PNG file's content as a data URL.

    Raises:
        ValueError: It is no PNG.
    """
    if not picture.startswith(PNG_SIGNATURE):
        raise ValueError(f"not a PNG: {len(picture)} bytes that start with {picture[:8]!r}")
    return _data_url("png", picture)


def _data_url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _colours(scores: Iterable[str]) -> dict[str, int]:
    """Number of the CSS class ``series-<n>`` of each score, in the order of the page."""
    return {name: index % plots.COLOURS + 1 for index, name in enumerate(dict.fromkeys(scores))}


def _tiles(run: Run, headline: str | None) -> list[dict[str, str]]:
    """The big figures on top: value, unit, name, and what it means in a few words."""
    figures: list[tuple[str, float | None, str]] = []
    if headline is not None:
        score = run.scores[headline]
        figures += [
            ("AP", score.AP, "average precision, higher is better"),
            ("AUROC", score.AUROC, "area under the ROC curve, higher is better"),
            ("FPR95", score.FPR95, "false alarms at 95 % detection, lower is better"),
        ]
    if run.segmentation is not None:
        figures.append(("mIoU", run.segmentation.mIoU, "over the known classes"))
    tiles = [
        {
            "name": name,
            "value": f"{value:.{2 if value < 10 else 1}f}",
            "unit": "%",
            "meaning": meaning,
        }
        for name, value, meaning in figures
        if value is not None
    ]
    if run.replay is not None and (latency := run.replay.latency_ms) is not None:
        median = f"{latency.median:.0f}"
        tiles.append(
            {"name": "Latency", "value": median, "unit": "ms", "meaning": "median a frame"}
        )
    return tiles


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
    """One chart per model, all with the same scale."""
    curves: dict[str, dict[str, plots.Curve]] = {}
    for entry in entries:
        images = counts.get(entry.run.key)
        if images is not None and entry.score in images.scores:
            curve = plots.binned_pr_curve(images, entry.score)
            if curve[0].size:
                curves.setdefault(entry.model, {})[entry.score] = curve
    top = plots.precision_top(curve for own in curves.values() for curve in own.values())
    return {
        model: plots.pr_chart(
            f"Precision over recall of {model}, one curve a score", own, top, colours, height=300
        )
        for model, own in curves.items()
    }

"""The evaluation as one self-contained HTML page: figures, curves, pictures, configuration.

The page refers to nothing outside itself, reads well in light and dark mode, on paper and with a
screen reader. Its markup is in ``report.html``, its looks in ``report.css``.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
import yaml
from markupsafe import Markup

from anomaly_seg_ros import drawing
from anomaly_seg_ros.evaluation import plots
from anomaly_seg_ros.evaluation.gallery import THUMBNAIL_WIDTH, FramePictures
from anomaly_seg_ros.evaluation.results import (
    COLUMNS,
    EvaluationResult,
    best_scores,
    format_figure,
)
from anomaly_seg_ros.io.atomic import write_atomically
from anomaly_seg_ros.metrics.pixel_scores import PixelScores

_TEMPLATES = Path(__file__).parent
_JPEG_QUALITY = 85


@dataclass(frozen=True)
class ScoreCurves:
    """What the plots of one score need; every array is small.

    Attributes:
        recall, precision: (N,) fractions, recall rising; empty without anomalous pixels.
        false_positive_rate, true_positive_rate: (N,) fractions from (0, 0) to (1, 1).
        edges: (B + 1,) edges of the histogram in the score's own units.
        in_distribution, anomalous: (B,) shares of either kind's pixels in each bin.
    """

    recall: np.ndarray
    precision: np.ndarray
    false_positive_rate: np.ndarray
    true_positive_rate: np.ndarray
    edges: np.ndarray
    in_distribution: np.ndarray
    anomalous: np.ndarray

    @classmethod
    def from_scores(cls, pixels: PixelScores, points: int = 300, bins: int = 60) -> ScoreCurves:
        """Takes the curves from collected pixels, thinned to ``points``."""
        return cls(*pixels.pr_curve(points), *pixels.roc_curve(points), *pixels.histograms(bins))


def write_report(
    result: EvaluationResult,
    curves: Mapping[str, ScoreCurves],
    pictures: Sequence[FramePictures],
    latencies: Sequence[float],
    path: str | Path,
    class_colours: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Writes the report.

    Args:
        result: The figures.
        curves: By score name; scores without an entry get no curves.
        pictures: Rows of pictures; neighbours with the same reason stand under one heading.
        latencies: Milliseconds, one a frame, in the order of the frames; may be empty.
        path: The HTML file.
        class_colours: Class name -> (red, green, blue), for the legend and the IoU bars.

    Raises:
        OutputError: The file cannot be written; nothing half-written is left.
    """
    write_atomically(path, render(result, curves, pictures, latencies, class_colours).encode())


def render(
    result: EvaluationResult,
    curves: Mapping[str, ScoreCurves],
    pictures: Sequence[FramePictures] = (),
    latencies: Sequence[float] = (),
    class_colours: Mapping[str, Sequence[int]] | None = None,
) -> str:
    """Returns the report's HTML; arguments as for :func:`write_report`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = format_figure
    environment.filters["inline_image"] = inline_image
    headline = headline_score(result)
    colours = {name: index % plots.COLOURS + 1 for index, name in enumerate(result.scores)}
    return environment.get_template("report.html").render(
        css=Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8")),  # noqa: S704 - ours
        result=result,
        headline=headline,
        tiles=_tiles(result, headline),
        columns=COLUMNS,
        best=best_scores(result.scores),
        colours=colours,
        has_curves=any(curve.false_positive_rate.size for curve in curves.values()),
        pr_chart=_pr_chart(curves, colours, headline),
        roc_chart=_roc_chart(curves, colours, headline),
        histograms={
            name: _score_histogram(name, curve)
            for name, curve in curves.items()
            if curve.in_distribution.any() or curve.anomalous.any()
        },
        galleries=[(reason, list(rows)) for reason, rows in groupby(pictures, lambda p: p.reason)],
        latency_chart=_latency_chart(latencies) if len(latencies) > 1 else None,
        class_colours=dict(class_colours or {}),
        unknown_colour=drawing.UNKNOWN_COLOUR,
        configuration=yaml.safe_dump(
            _yaml_ready({"input": result.input, **result.configuration}),
            sort_keys=False,
            allow_unicode=True,
        ),
        written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    )


def headline_score(result: EvaluationResult) -> str | None:
    """The score that the page leads with: the node's, otherwise the one with the best AP."""
    if result.node is not None and result.node.score in result.scores:
        return result.node.score
    return best_scores(result.scores).get("AP", next(iter(result.scores), None))


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
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode('ascii')}"


def _tiles(result: EvaluationResult, headline: str | None) -> list[dict[str, str]]:
    """The big figures on top: value, unit, name, and what it means in a few words."""
    tiles = []
    if headline is not None:
        figures = result.scores[headline]
        meanings = {
            "AP": "average precision, higher is better",
            "AUROC": "area under the ROC curve, higher is better",
            "FPR95": "false alarms at 95 % detection, lower is better",
        }
        tiles += [
            _tile(column, getattr(figures, column), "%", 1, meaning)
            for column, meaning in meanings.items()
            if not math.isnan(getattr(figures, column))
        ]
    if result.segmentation is not None and not math.isnan(result.segmentation.mIoU):
        tiles.append(_tile("mIoU", result.segmentation.mIoU, "%", 1, "over the known classes"))
    if result.latency_ms is not None and not math.isnan(result.latency_ms.median):
        tiles.append(_tile("Latency", result.latency_ms.median, "ms", 0, "median a frame"))
    return tiles


def _tile(name: str, value: float, unit: str, digits: int, meaning: str) -> dict[str, str]:
    if unit == "%" and value < 10:
        digits += 1
    return {
        "name": name,
        "value": format_figure(value, digits),
        "unit": unit,
        "meaning": meaning,
    }


def _pr_chart(
    curves: Mapping[str, ScoreCurves], colours: Mapping[str, int], headline: str | None
) -> Markup:
    # The first few pixels' precision jumps between 0 and 1: it must not set the scale.
    tops = [curve.precision[curve.recall >= 0.02].max(initial=0) for curve in curves.values()]
    top = min(1.0, plots.nice_ceiling(max(tops, default=1.0)))
    axes = plots.Axes((0, 1), (0, top), "recall", "precision", percent=(True, True))
    series = [
        plots.Series(name, curve.recall, curve.precision, colours[name], name == headline)
        for name, curve in _emphasis_last(curves, headline)
    ]
    return plots.line_chart("Precision over recall, one curve a score", axes, series)


def _roc_chart(
    curves: Mapping[str, ScoreCurves], colours: Mapping[str, int], headline: str | None
) -> Markup:
    axes = plots.Axes(
        (0, 1), (0, 1), "false-positive rate", "true-positive rate", percent=(True, True)
    )
    series = [
        plots.Series(
            name,
            curve.false_positive_rate,
            curve.true_positive_rate,
            colours[name],
            name == headline,
        )
        for name, curve in _emphasis_last(curves, headline)
    ]
    return plots.line_chart(
        "True-positive rate over false-positive rate, one curve a score",
        axes,
        series,
        [plots.Marker("FPR95 is read here", y=0.95)],
        diagonal=True,
    )


def _emphasis_last(
    curves: Mapping[str, ScoreCurves], headline: str | None
) -> list[tuple[str, ScoreCurves]]:
    """The headline's curve last, so that it is drawn on top."""
    return sorted(curves.items(), key=lambda item: item[0] == headline)


def _score_histogram(name: str, curve: ScoreCurves) -> Markup:
    heights = np.sort(np.concatenate([curve.in_distribution, curve.anomalous]))
    top, markers = float(heights[-1]), []
    # Scores such as the softmax's pile up at one end. There one bin would flatten all others:
    # it leaves the chart at the top, and a label says how high it is.
    if top > 2 * heights[-4] > 0:
        peak = int(np.argmax(np.maximum(curve.in_distribution, curve.anomalous)))
        centre = float(curve.edges[peak : peak + 2].mean())
        markers = [plots.Marker(f"↑ {top:.0%}", x=centre)]
        top = 1.4 * float(heights[-4])
    axes = plots.Axes(
        (float(curve.edges[0]), float(curve.edges[-1])),
        (0, plots.nice_ceiling(top)),
        "anomaly score",
        percent=(False, True),
        width=360,
        height=210,
    )
    layers = [
        plots.Series("in-distribution", curve.edges, curve.in_distribution, 1),
        plots.Series("anomaly", curve.edges, curve.anomalous, 2),
    ]
    return plots.histogram_chart(
        f"Distribution of {name} over in-distribution and anomalous pixels", axes, layers, markers
    )


def _latency_chart(latencies: Sequence[float]) -> Markup:
    samples = np.asarray(latencies, np.float64)
    low, high = float(samples.min()), float(samples.max())
    margin = max(0.05 * (high - low), 0.5)
    edges = np.linspace(max(0.0, low - margin), high + margin, min(60, 10 + samples.size // 2))
    counts, _ = np.histogram(samples, edges)
    axes = plots.Axes(
        (float(edges[0]), float(edges[-1])),
        (0, plots.nice_ceiling(float(counts.max()))),
        "latency in ms",
        "frames",
        width=1080,
        height=230,
    )
    median, p95 = np.percentile(samples, [50, 95])
    markers = [
        plots.Marker(f"median {median:.0f}", x=float(median)),
        plots.Marker(f"p95 {p95:.0f}", x=float(p95)),
    ]
    layer = plots.Series("frames", edges, counts.astype(np.float64), 1)
    return plots.histogram_chart("Distribution of the latency", axes, [layer], markers)


def _yaml_ready(value: Any) -> Any:
    """Turns tuples, paths and NumPy values into what YAML's safe writer knows."""
    if isinstance(value, Mapping):
        return {str(key): _yaml_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_yaml_ready(item) for item in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return _yaml_ready(value.tolist())
    return value if isinstance(value, (str, int, float, type(None))) else str(value)

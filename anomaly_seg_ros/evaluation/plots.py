# SPDX-License-Identifier: Apache-2.0
"""Small charts as inline SVG, styled by the report's CSS so that they follow light and dark mode.

Classes in use: ``axis``, ``tick``, ``label``, ``grid``, ``line``, ``area``, ``marker``, and
``series-1`` to ``series-12`` for colours. Every chart has a title and a description for screen
readers. All text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from markupsafe import Markup

from anomaly_seg_ros.evaluation.image_counts import ImageCounts
from anomaly_seg_ros.metrics.pixel_scores import PixelScores

# Colours in report.css: one for each score, and some for scores to come.
COLOURS = 12

# Margins around the plot area, for tick and axis labels.
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 14, 44

_CURVE = Markup('<path class="line series-{}{}" data-score="{}" d="{}"><title>{}</title></path>')

_Numbers = TypeVar("_Numbers", float, np.ndarray)

Curve = tuple[np.ndarray, np.ndarray]
"""(recall, precision): (N,) fractions, recall rising; empty without anomalous pixels."""


@dataclass(frozen=True)
class Series:
    """One curve or one layer of a histogram.

    Attributes:
        name: Shown on hover.
        x, y: (N,) points of a curve; for a histogram, ``x`` is its (N + 1,) edges.
        colour: 1 to 12, the number of the CSS class ``series-<n>``.
        emphasis: Drawn thicker.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    colour: int
    emphasis: bool = False


@dataclass(frozen=True)
class Marker:
    """A labelled vertical line (at ``x``) or horizontal line (at ``y``)."""

    label: str
    x: float | None = None
    y: float | None = None


@dataclass(frozen=True)
class Axes:
    """The plot area: data ranges, labels, and the size of the whole chart in SVG units."""

    x: tuple[float, float]
    y: tuple[float, float]
    x_label: str = ""
    y_label: str = ""
    percent: tuple[bool, bool] = (False, False)
    width: int = 520
    height: int = 340

    def across(self, x: _Numbers) -> _Numbers:
        """Data x -> SVG x, clipped to the plot area."""
        share = np.clip((x - self.x[0]) / (self.x[1] - self.x[0]), 0, 1)
        return _LEFT + share * (self.width - _LEFT - _RIGHT)

    def down(self, y: _Numbers) -> _Numbers:
        """Data y -> SVG y, clipped to the plot area."""
        share = np.clip((y - self.y[0]) / (self.y[1] - self.y[0]), 0, 1)
        return self.height - _BOTTOM - share * (self.height - _TOP - _BOTTOM)


def line_chart(
    title: str,
    axes: Axes,
    series: Sequence[Series],
    markers: Sequence[Marker] = (),
    diagonal: bool = False,
) -> Markup:
    """Draws curves.

    Args:
        title: Title for screen readers.
        axes: Ranges, labels and size.
        series: Curves, later ones on top; those without points are left out.
        markers: Labelled lines.
        diagonal: Draw the diagonal of chance level.
    """
    body = [_axes(axes)]
    if diagonal:
        ends = np.array(axes.x), np.array(axes.y)
        body.append(Markup('<path class="marker" d="{}"/>').format(_path(axes, *ends)))
    body += [_marker(axes, marker) for marker in markers]
    for curve in series:
        if curve.x.size:
            body.append(
                _CURVE.format(
                    curve.colour,
                    " emphasis" if curve.emphasis else "",
                    curve.name,
                    _path(axes, curve.x, curve.y),
                    curve.name,
                )
            )
    return _svg(title, axes, body)


def histogram_chart(
    title: str, axes: Axes, layers: Sequence[Series], markers: Sequence[Marker] = ()
) -> Markup:
    """Draws histograms over each other as translucent steps.

    Args:
        title: Title for screen readers.
        axes: Ranges, labels and size.
        layers: ``x`` holds the edges, ``y`` the bin heights.
        markers: Labelled lines.
    """
    body = [_axes(axes)]
    for layer in layers:
        x = np.repeat(layer.x, 2)
        y = np.concatenate([[0.0], np.repeat(layer.y, 2), [0.0]])
        body.append(
            Markup('<path class="area series-{}" d="{}"><title>{}</title></path>').format(
                layer.colour, _path(axes, x, y), layer.name
            )
        )
    body += [_marker(axes, marker) for marker in markers]
    return _svg(title, axes, body)


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

    @property
    def has_histograms(self) -> bool:
        """Whether there are pixels of either kind."""
        return bool(self.in_distribution.any() or self.anomalous.any())

    @classmethod
    def from_scores(cls, pixels: PixelScores, points: int = 300, bins: int = 60) -> ScoreCurves:
        """Takes the curves from collected pixels, thinned to ``points``."""
        return cls(*pixels.pr_curve(points), *pixels.roc_curve(points), *pixels.histograms(bins))


def precision_top(curves: Iterable[Curve]) -> float:
    """Upper end of the precision axis that all curves share."""
    # The first few pixels' precision jumps between 0 and 1: it must not set the scale.
    tops = [precision[recall >= 0.02].max(initial=0.0) for recall, precision in curves]
    return min(1.0, nice_ceiling(max(tops, default=1.0)))


def pr_chart(
    title: str,
    curves: Mapping[str, Curve],
    top: float,
    colours: Mapping[str, int],
    headline: str | None = None,
    height: int = Axes.height,
) -> Markup:
    """Precision over recall, one curve per score.

    Args:
        title: Title for screen readers.
        curves: Curves by score, later ones on top.
        top: Upper end of the precision axis.
        colours: Number of the CSS class ``series-<n>``, by score.
        headline: The score that is drawn thicker.
        height: Height of the whole chart in SVG units.
    """
    percent = (True, True)
    axes = Axes((0, 1), (0, top), "recall", "precision", percent, height=height)
    series = [
        Series(name, *curve, colours[name], name == headline) for name, curve in curves.items()
    ]
    return line_chart(title, axes, series)


def roc_chart(
    curves: Mapping[str, ScoreCurves], colours: Mapping[str, int], headline: str | None
) -> Markup:
    """True-positive over false-positive rate, one curve per score; see :func:`pr_chart`."""
    axes = Axes((0, 1), (0, 1), "false-positive rate", "true-positive rate", percent=(True, True))
    series = [
        Series(
            name,
            curve.false_positive_rate,
            curve.true_positive_rate,
            colours[name],
            name == headline,
        )
        for name, curve in curves.items()
    ]
    return line_chart(
        "True-positive rate over false-positive rate, one curve a score",
        axes,
        series,
        [Marker("FPR95 is read here", y=0.95)],
        diagonal=True,
    )


def score_histogram(name: str, curve: ScoreCurves) -> Markup:
    """Distribution of a score over the pixels of both kinds."""
    heights = np.sort(np.concatenate([curve.in_distribution, curve.anomalous]))
    top, markers = float(heights[-1]), []
    # Scores such as the softmax's pile up at one end. There one bin would flatten all others:
    # it leaves the chart at the top, and a label says how high it is.
    if top > 2 * heights[-4] > 0:
        peak = int(np.argmax(np.maximum(curve.in_distribution, curve.anomalous)))
        centre = float(curve.edges[peak : peak + 2].mean())
        markers = [Marker(f"↑ {top:.0%}", x=centre)]
        top = 1.4 * float(heights[-4])
    axes = Axes(
        (float(curve.edges[0]), float(curve.edges[-1])),
        (0, nice_ceiling(top)),
        "anomaly score",
        percent=(False, True),
        width=360,
        height=210,
    )
    layers = [
        Series("in-distribution", curve.edges, curve.in_distribution, 1),
        Series("anomaly", curve.edges, curve.anomalous, 2),
    ]
    return histogram_chart(
        f"Distribution of {name} over in-distribution and anomalous pixels", axes, layers, markers
    )


def latency_chart(latencies: Sequence[float]) -> Markup:
    """Distribution of latencies in milliseconds, with median and 95th percentile."""
    samples = np.asarray(latencies, np.float64)
    low, high = float(samples.min()), float(samples.max())
    margin = max(0.05 * (high - low), 0.5)
    edges = np.linspace(max(0.0, low - margin), high + margin, min(60, 10 + samples.size // 2))
    counts, _ = np.histogram(samples, edges)
    axes = Axes(
        (float(edges[0]), float(edges[-1])),
        (0, nice_ceiling(float(counts.max()))),
        "latency in ms",
        "frames",
        width=1080,
        height=230,
    )
    median, p95 = np.percentile(samples, [50, 95])
    markers = [
        Marker(f"median {median:.0f}", x=float(median)),
        Marker(f"p95 {p95:.0f}", x=float(p95)),
    ]
    layer = Series("frames", edges, counts.astype(np.float64), 1)
    return histogram_chart("Distribution of the latency", axes, [layer], markers)


def binned_pr_curve(
    counts: ImageCounts, score: str, points: int = 200
) -> tuple[np.ndarray, np.ndarray]:
    """Precision over recall of all images pooled, one point a bin, thinned for plotting.

    Args:
        counts: Counts of the images.
        score: Name of the score.
        points: Maximum number of points, evenly spread over the recall.

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


def nice_ceiling(value: float) -> float:
    """The next of 1, 1.5, 2, 3, 4, 5, 6, 8 times a power of ten that is at least ``value``."""
    if value <= 0 or not math.isfinite(value):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    steps = (1, 1.5, 2, 3, 4, 5, 6, 8, 10)
    return next(step * power for step in steps if step * power >= value * (1 - 1e-9))


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers between ``low`` and ``high``, ends included where round."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def _svg(title: str, axes: Axes, body: Sequence[Markup]) -> Markup:
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(axes.width, axes.height, title, Markup("").join(body))


def _path(axes: Axes, x: np.ndarray, y: np.ndarray) -> str:
    points = zip(axes.across(x).tolist(), axes.down(y).tolist(), strict=True)
    return "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in points)


def _axes(axes: Axes) -> Markup:
    """Grid lines, tick labels, axis labels and the base line."""
    left, right = axes.across(axes.x[0]), axes.across(axes.x[1])
    bottom, top = axes.down(axes.y[0]), axes.down(axes.y[1])
    parts = []
    y_ticks = ticks(*axes.y, count=5 if axes.height > 250 else 4)
    for value, text in zip(y_ticks, _tick_texts(y_ticks, axes.percent[1]), strict=True):
        at = axes.down(value)
        parts.append(_line("grid", left, at, right, at))
        parts.append(_text("tick end", left - 7, at + 4, text))
    x_ticks = ticks(*axes.x, count=max(4, axes.width // 100))
    for value, text in zip(x_ticks, _tick_texts(x_ticks, axes.percent[0]), strict=True):
        parts.append(_text("tick middle", axes.across(value), bottom + 17, text))
    parts.append(_line("axis", left, bottom, right, bottom))
    parts.append(_text("label middle", (left + right) / 2, axes.height - 7, axes.x_label))
    if axes.y_label:
        centre = (top + bottom) / 2
        turned = Markup('<text class="label middle" transform="translate(13 {:.0f}) rotate(-90)">')
        parts.append(turned.format(centre) + axes.y_label + Markup("</text>"))
    return Markup("").join(parts)


def _tick_texts(values: Sequence[float], percent: bool) -> list[str]:
    """Labels with as many decimals as the step between them needs."""
    shown = [100 * value if percent else value for value in values]
    step = shown[1] - shown[0] if len(shown) > 1 else 1.0
    decimals = next((d for d in range(7) if abs(round(step, d) - step) < 1e-9), 7)
    write: Callable[[float], str] = f"{{:.{decimals}f}}".format
    # Adding zero turns -0.0 into 0.0.
    return [write(value + 0.0) + ("%" if percent else "") for value in shown]


def _marker(axes: Axes, marker: Marker) -> Markup:
    left, right = axes.across(axes.x[0]), axes.across(axes.x[1])
    bottom, top = axes.down(axes.y[0]), axes.down(axes.y[1])
    if marker.x is not None:
        at = axes.across(marker.x)
        # Near the right end the label goes to the left of its line.
        side = ("end", -5) if at > (left + right) / 2 + (right - left) / 4 else ("start", 5)
        return _line("marker", at, bottom, at, top) + _text(
            f"note {side[0]}", at + side[1], top + 10, marker.label
        )
    at = axes.down(marker.y or 0.0)
    # Short of the right end, where the diagonal of a ROC chart passes.
    end = left + 0.85 * (right - left)
    return _line("marker", left, at, right, at) + _text("note end", end, at + 15, marker.label)


def _line(css: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(
        css, float(x1), float(y1), float(x2), float(y2)
    )


def _text(css: str, x: float, y: float, text: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(
        css, float(x), float(y), text
    )

# SPDX-License-Identifier: Apache-2.0
"""Charts: coordinates, ticks, escaping."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from anomaly_seg_ros.evaluation import plots
from anomaly_seg_ros.scores import SCORES

AXES = plots.Axes((0, 1), (0, 1), "recall", "precision", percent=(True, True))


def parse(chart: str) -> ElementTree.Element:
    return ElementTree.fromstring(chart)  # noqa: S314 - our own


def points(path: str) -> np.ndarray:
    return np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", path), np.float64)


def test_a_curve_runs_through_its_points_and_stays_in_the_plot() -> None:
    curve = plots.Series("msp", np.array([0, 0.5, 1, 2]), np.array([0, 1, 5, -1]), 3, True)
    svg = parse(plots.line_chart("title", AXES, [curve]))
    (path,) = svg.findall("path")
    assert path.get("class") == "line series-3 emphasis"
    drawn = points(path.get("d"))
    bottom, top = AXES.down(0), AXES.down(1)
    left, right = AXES.across(0), AXES.across(1)
    want = [(left, bottom), ((left + right) / 2, top), (right, top), (right, bottom)]
    np.testing.assert_allclose(drawn, want, atol=0.06)
    assert top < bottom


def test_an_empty_curve_is_left_out() -> None:
    empty = plots.Series("msp", np.empty(0), np.empty(0), 1)
    assert "<path" not in plots.line_chart("title", AXES, [empty])


def test_a_histogram_stands_on_its_base_line() -> None:
    layer = plots.Series("known", np.array([0, 0.5, 1]), np.array([0.2, 1.0]), 1)
    svg = parse(plots.histogram_chart("title", AXES, [layer]))
    drawn = points(svg.find("path").get("d"))
    assert len(drawn) == 6
    np.testing.assert_allclose(drawn[[0, -1], 1], AXES.down(0), atol=0.06)
    np.testing.assert_allclose(drawn[3:5, 1], AXES.down(1), atol=0.06)


def test_names_are_escaped() -> None:
    curve = plots.Series('"><script>', np.array([0.0, 1.0]), np.array([0.0, 1.0]), 1)
    axes = plots.Axes((0, 1), (0, 1), "<x>", "<y>")
    chart = plots.line_chart("<t> & co", axes, [curve], [plots.Marker("<m>", x=0.9)])
    svg = parse(chart)
    assert svg.get("aria-label") == "<t> & co"
    assert svg.find("path").get("data-score") == '"><script>'
    assert {"<x>", "<y>", "<m>"} <= {text.text for text in svg.findall("text")}


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-3, 7, [-2, 0, 2, 4, 6]),
        (0, 0.0015, [0, 0.0005, 0.001, 0.0015]),
        (99.2, 100.1, [99.2, 99.4, 99.6, 99.8, 100]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, expected: list[float]) -> None:
    assert plots.ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "expected"), [(0.93, 1), (0.31, 0.4), (1, 1), (17, 20), (0.0013, 0.0015), (0, 1)]
)
def test_nice_ceiling(value: float, expected: float) -> None:
    assert plots.nice_ceiling(value) == pytest.approx(expected)


def test_tick_labels_have_the_decimals_they_need() -> None:
    def labels(axes: plots.Axes) -> list[str]:
        svg = parse(plots.line_chart("t", axes, []))
        return [text.text for text in svg.findall("text") if text.get("class") == "tick end"]

    assert labels(AXES) == ["0%", "20%", "40%", "60%", "80%", "100%"]
    small = plots.Axes((0, 1), (0, 0.01), percent=(False, True))
    assert labels(small) == ["0.0%", "0.2%", "0.4%", "0.6%", "0.8%", "1.0%"]
    assert labels(plots.Axes((0, 1), (-4, 4))) == ["-4", "-2", "0", "2", "4"]


def test_every_score_has_a_colour_of_its_own() -> None:
    css = Path(plots.__file__).with_name("report.css").read_text(encoding="utf-8")
    assert len(SCORES) <= plots.COLOURS
    themes = re.findall(r"--s1:.*?(?=\n\s*}|\n\s*--[a-rt-z])", css, re.DOTALL)
    assert len(themes) == 2  # light and dark
    for theme in themes:
        colours = dict(re.findall(r"--(s\d+): (#\w+);", theme))
        assert len(set(colours.values())) == plots.COLOURS, theme
    for number in range(1, plots.COLOURS + 1):
        assert f".series-{number} {{ --c: var(--s{number}); }}" in css

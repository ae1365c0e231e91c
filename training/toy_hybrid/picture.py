# SPDX-License-Identifier: Apache-2.0
"""Draws the toy as SVG: its points, and the fields of three scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from skimage.measure import approximate_polygon, find_contours

from training.toy_hybrid.experiment import FLOW, Score, ToyOptions, as_pixels
from training.toy_hybrid.points import Points, draw_points

_EXTENT = 5.6  # of a panel, from the middle
_GRID = 161
_TOLERANCE = 0.04  # of outlines, in cells of the grid
_PANEL, _GAP, _TITLE, _LEGEND = 460, 28, 58, 74
_SHOWN = {"inliers": 240, "negatives": 110, "outliers": 120}
# From normal to anomalous.
_BANDS = (
    "#fdfcf9", "#f6f2ec", "#eee6e0", "#e3d7d6", "#d5c6cd", "#c3b3c3", "#ae9fb8", "#978aab",
    "#7f779c", "#68658c",
)  # fmt: skip
_BLUES = ("#1f5fa8", "#3f8fd2", "#0f3d75")
_POSTERIOR = (
    'ln P(d<tspan font-size="10.5" dy="3">out</tspan><tspan dy="-3"> | x)</tspan>'  # its index
)
_GREEN, _RED, _INK, _PALE = "#2e8b57", "#d7263d", "#26303a", "#5d6873"


def draw(
    scores: Mapping[str, Score],
    options: ToyOptions,
    figures: Mapping[str, Mapping[str, Sequence[float]]],
) -> str:
    """Draws the first seed.

    Args:
        scores: Scores of the first seed.
        options: Settings of the toy.
        figures: Score -> figure -> values of all seeds, in percent.
    """
    points = draw_points("test", 0, options.test_inliers, options.test_outliers)
    negatives = draw_points("train", 0, 1, options.train_negatives).outliers["between"]
    panels = [_data_panel(points, negatives)]
    for name, title, formula in (
        ("outlier_head", "Discriminative", _POSTERIOR),
        (f"flow_density_{FLOW}", "Generative", "− ln p(x)"),
        (f"flow_hybrid_{FLOW}", "Hybrid", f"{_POSTERIOR} − ln p(x)"),
    ):
        means = {key: np.mean(figures[name][key]) for key in ("AUROC", "AP", "FPR95")}
        caption = " · ".join(f"{key} {mean:.1f}" for key, mean in means.items())
        panels.append(_score_panel(scores[name], points, title, formula, caption))
    width = 2 * _PANEL + 3 * _GAP
    row = _TITLE + _PANEL + _GAP // 2
    height = 2 * row + _LEGEND
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="Helvetica, Arial, sans-serif">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<clipPath id="panel"><rect width="{_PANEL}" height="{_PANEL}" rx="6"/></clipPath>',
    ]
    for index, panel in enumerate(panels):
        x = _GAP + (index % 2) * (_PANEL + _GAP)
        y = _TITLE + (index // 2) * row
        lines += [f'<g transform="translate({x} {y})">', *panel, "</g>"]
    lines += [*_legend(width, height), "</svg>"]
    return "\n".join(lines) + "\n"


def _data_panel(points: Points, negatives: np.ndarray) -> Iterator[str]:
    yield from _frame("Data", "negatives only between the classes", "")
    yield from _markers(points.outliers["around"][: _SHOWN["outliers"]], "square", _RED)
    yield from _markers(points.outliers["between"][: _SHOWN["outliers"] // 2], "square", _RED)
    yield from _markers(negatives[: _SHOWN["negatives"]], "triangle", _GREEN)
    yield from _inliers(points)


def _score_panel(
    score: Score, points: Points, title: str, formula: str, caption: str
) -> Iterator[str]:
    """A field in bands of equally many test points, the line around 95 % of the inliers."""
    axis = np.linspace(-_EXTENT, _EXTENT, _GRID)
    grid = np.stack(np.meshgrid(axis, -axis), -1).reshape(-1, 2)
    field = score(as_pixels(grid)).numpy().reshape(_GRID, _GRID).astype(np.float64)
    inliers = score(as_pixels(points.inliers)).numpy()
    everything = np.concatenate(
        [inliers, *(score(as_pixels(x)).numpy() for x in points.outliers.values())]
    )
    levels = np.quantile(everything, np.arange(1, len(_BANDS)) / len(_BANDS))
    clipped = 'fill-rule="evenodd" clip-path="url(#panel)"'
    yield from _frame(title, formula, caption)
    for colour, level in zip(_BANDS[1:], levels, strict=True):
        yield f'<path d="{_region(field, level)}" fill="{colour}" {clipped}/>'
    threshold = float(np.quantile(inliers, 0.95))
    yield (
        f'<path d="{_region(field, threshold)}" fill="none" stroke="{_INK}" stroke-width="1.6" '
        f"{clipped}/>"
    )
    yield from _inliers(points)
    for outliers in points.outliers.values():
        shown = outliers[: _SHOWN["outliers"]]
        missed = score(as_pixels(shown)).numpy() <= threshold
        yield from _markers(shown[~missed], "square", "white", 0.75)
        yield from _markers(shown[missed], "square", _RED)


def _region(field: np.ndarray, level: float) -> str:
    """Outline of all that is above a level, as the data of a path."""
    # What lies outside of the panel counts as below, so that every outline is closed.
    padded = np.pad(field, 1, constant_values=min(field.min(), level) - 1)
    parts = []
    for contour in find_contours(padded, level):
        outline = approximate_polygon(contour, _TOLERANCE)[:-1, ::-1]
        corners = np.clip((outline - 1) / (_GRID - 1), -0.01, 1.01) * _PANEL
        steps = " ".join(f"{x:.1f} {y:.1f}" for x, y in corners)
        parts.append(f"M{steps}Z")
    return "".join(parts)


def _frame(title: str, formula: str, caption: str) -> Iterator[str]:
    yield f'<text y="-30" font-size="19" font-weight="bold" fill="{_INK}">{title}</text>'
    yield f'<text y="-10" font-size="14.5" fill="{_PALE}">{formula}</text>'
    yield f'<rect width="{_PANEL}" height="{_PANEL}" rx="6" fill="{_BANDS[0]}"/>'
    if caption:
        yield (
            f'<text x="{_PANEL}" y="-10" text-anchor="end" font-size="14.5" '
            f'fill="{_INK}">{caption}</text>'
        )


def _inliers(points: Points) -> Iterator[str]:
    shown = points.inliers[: _SHOWN["inliers"]]
    for label, colour in enumerate(_BLUES):
        yield from _markers(shown[points.classes[: len(shown)] == label], "dot", colour)


def _markers(points: np.ndarray, shape: str, colour: str, opacity: float = 1.0) -> Iterator[str]:
    """Points as one path of dots, squares or triangles."""
    corners = (points * (1, -1) / _EXTENT + 1) / 2 * _PANEL
    inside = corners[(np.abs(points) < _EXTENT).all(1)]
    outline = {
        "dot": "m-2.6 0a2.6 2.6 0 1 0 5.2 0a2.6 2.6 0 1 0 -5.2 0z",
        "square": "m-2.7 -2.7h5.4v5.4h-5.4z",
        "triangle": "m0 -3.6l3.3 5.8h-6.6z",
    }[shape]
    data = "".join(f"M{x:.1f} {y:.1f}{outline}" for x, y in inside)
    edge = _PALE if colour == "white" else "white"
    yield (
        f'<path d="{data}" fill="{colour}" stroke="{edge}" stroke-width="0.7" '
        f'opacity="{opacity:g}"/>'
    )


def _legend(width: float, height: float) -> Iterator[str]:
    """What the markers, the line and the colours mean."""
    top = height - _LEGEND + 24
    entries = (
        (("dot", _BLUES[0]), "inlier"),
        (("triangle", _GREEN), "negative, to train on"),
        (("square", _RED), "held-out outlier"),
        (("square", "white"), "held-out outlier that is found"),
    )
    x = _GAP
    for (shape, colour), text in entries:
        yield f'<g transform="translate({x + 6 - _PANEL / 2} {top - _PANEL / 2})">'
        yield from _markers(np.zeros((1, 2)), shape, colour)
        yield "</g>"
        yield f'<text x="{x + 16}" y="{top + 5}" font-size="14" fill="{_INK}">{text}</text>'
        x += 38 + 7.2 * len(text)
    yield f'<path d="M{x} {top}h22" stroke="{_INK}" stroke-width="1.6"/>'
    yield (
        f'<text x="{x + 28}" y="{top + 5}" font-size="14" fill="{_INK}">'
        "encloses 95 % of the inliers</text>"
    )
    swatch = 22
    x, top = _GAP, top + 20
    yield f'<text x="{x}" y="{top + 12}" font-size="14" fill="{_INK}">normal</text>'
    for index, colour in enumerate(_BANDS):
        yield (
            f'<rect x="{x + 52 + index * swatch}" y="{top}" width="{swatch}" height="15" '
            f'fill="{colour}"/>'
        )
    end = x + 60 + len(_BANDS) * swatch
    yield (
        f'<text x="{end}" y="{top + 12}" font-size="14" fill="{_INK}">anomalous; each shade holds '
        "a tenth of the test points</text>"
    )

# SPDX-License-Identifier: Apache-2.0
"""Two benchmarks side by side: differences, and how sure one can be of them.

Runs on the same data are paired by model (or by two named models) and scores by name. Differences
are those of the exact figures in the two files. Confidence intervals come from resampling the same
images on both sides (:mod:`metrics.resampling`), with figures from their binned counts. Bins are
0.8 % of a score wide; the shift that they cause in the difference over all images is subtracted
from every replicate and reported.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.evaluation.image_counts import (
    ImageCounts,
    image_counts_path,
    read_image_counts,
)
from anomaly_seg_ros.evaluation.plan import NODE
from anomaly_seg_ros.evaluation.results import FILE_NAME, Benchmark, Run, read_benchmark
from anomaly_seg_ros.evaluation.table_formats import (
    UNDEFINED,
    Cell,
    Column,
    Row,
    Table,
    format_number,
)
from anomaly_seg_ros.metrics.resampling import (
    FIGURES,
    draw_images,
    interval,
    pooled_figures,
    weighted_means,
)

PER_IMAGE_AP = "per-image AP"
MIOU = "mIoU"
_HIGHER_IS_BETTER = {"AP": True, "AUROC": True, "FPR95": False, PER_IMAGE_AP: True, MIOU: True}
FEW_IMAGES = 10


@dataclass(frozen=True)
class Resampling:
    """How the confidence intervals are computed.

    Attributes:
        replicates: Number of resamplings; 0 for no intervals.
        seed: The same seed gives the same intervals.
        confidence: Percent, inside (0, 100).

    Raises:
        ParameterError: One of them is out of range.
    """

    replicates: int = 1000
    seed: int = 0
    confidence: float = 95.0

    def __post_init__(self) -> None:
        if self.replicates < 0:
            raise ParameterError(f"replicates must not be negative, got {self.replicates}")
        if self.seed < 0:
            raise ParameterError(f"seed must not be negative, got {self.seed}")
        if not 0 < self.confidence < 100:
            raise ParameterError(f"confidence must be inside (0, 100), got {self.confidence:g}")


@dataclass
class Difference:
    """One figure of both sides, percent; None where not defined or not measured.

    Attributes:
        figure: Its name.
        a, b: The exact figures of both files.
        difference: ``b - a``.
        low, high: Confidence interval of the difference.
        b_better: Share of the replicates in which B is better, percent; ties count one half.
        binning: Shift of the difference over all images that is due to bins.
    """

    figure: str
    a: float | None
    b: float | None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    b_better: float | None = None
    binning: float | None = None

    def __post_init__(self) -> None:
        if self.a is not None and self.b is not None:
            self.difference = self.b - self.a

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low is not None and self.high is not None and self.low * self.high > 0


@dataclass
class Pair:
    """One score of two runs on the same data.

    Attributes:
        model_a, model_b: Names of the models.
        via_a, via_b: How they ran.
        data: Name of the data.
        score: Name of the score; empty for the figures of the known classes.
        images: Number of resampled images; 0 without intervals.
        figures: The figures that both sides have.
    """

    model_a: str
    model_b: str
    via_a: str
    via_b: str
    data: str
    score: str
    images: int = 0
    figures: list[Difference] = field(default_factory=list)


@dataclass
class Comparison:
    """All differences between two benchmarks.

    Attributes:
        a, b: Paths of the two files.
        resampling: How the intervals were made.
        pairs: All pairs, in the order of A.
        notes: What was left out, and why.
    """

    a: str
    b: str
    resampling: Resampling
    pairs: list[Pair] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """Serialises; what is not defined is null."""
        return json.dumps({"format": 1, **dataclasses.asdict(self)}, indent=1, allow_nan=False)


@dataclass(frozen=True)
class _Side:
    """A benchmark, its path, and the model to take from it (None: all)."""

    path: Path
    benchmark: Benchmark
    model: str | None

    @classmethod
    def read(cls, path: str | Path, model: str | None) -> _Side:
        path = Path(path)
        path = path / FILE_NAME if path.is_dir() else path
        benchmark = read_benchmark(path)
        models = list(dict.fromkeys(run.model for run in benchmark.runs))
        if model is not None and model not in models:
            raise ParameterError(f"{path} has no model {model!r}; it has {_listing(models)}")
        return cls(path, benchmark, model)

    @property
    def runs(self) -> list[Run]:
        return [run for run in self.benchmark.runs if self.model in (None, run.model)]

    def images(self, run: Run) -> ImageCounts | None:
        return read_image_counts(self.path.parent, run)


def compare_benchmarks(
    a: str | Path,
    b: str | Path,
    model_a: str | None = None,
    model_b: str | None = None,
    resampling: Resampling | None = None,
) -> Comparison:
    """Compares two benchmarks, or two models of one.

    Args:
        a: ``benchmark.json`` or its folder, with the images' counts beside it.
        b: The other benchmark, in the same form.
        model_a: Model of A to pair with ``model_b``, such as before and after a training. If only
            one of the two is given, it applies to both sides; without either, every model is
            paired with itself.
        model_b: Model of B.
        resampling: How to resample the images; None for the defaults.

    Raises:
        OutputError: A file cannot be read.
        ParameterError: They have nothing in common, or their figures are not comparable: other
            conventions, images or ground truth. The message says which.
    """
    sides = _Side.read(a, model_a or model_b), _Side.read(b, model_b or model_a)
    _check_conventions(*sides)
    resampling = resampling or Resampling()
    comparison = Comparison(str(sides[0].path), str(sides[1].path), resampling)
    matched = _match(*sides)
    if not matched:
        raise ParameterError(
            f"nothing to compare: {_contents(sides[0])}; {_contents(sides[1])}. "
            "--model-a and --model-b pair models of different names"
        )
    for run_a, run_b in matched:
        _compare_runs(comparison, sides, run_a, run_b)
    partners = {id(run) for pair in matched for run in pair}
    comparison.notes += [
        f"only in {name}: {run.model} on {run.data} ({run.via})"
        for name, side in zip("AB", sides, strict=True)
        for run in side.runs
        if id(run) not in partners
    ]
    return comparison


def comparison_table(comparison: Comparison) -> Table:
    """Returns the differences as a table; those whose interval excludes zero are marked."""
    resampling = comparison.resampling
    columns = ("A", "B", "B - A", f"{resampling.confidence:g} % interval", "B better", "bins")
    rows = [
        Row(
            (pair.data, _models(pair), pair.score or "known classes", figure.figure),
            _difference_cells(figure),
        )
        for pair in comparison.pairs
        for figure in pair.figures
    ]
    note = f"A: {comparison.a}; B: {comparison.b}. Percent. "
    if any(pair.images for pair in comparison.pairs):
        note += (
            f"Intervals: {resampling.replicates} resamplings of the images, the same for A and B, "
            f"seed {resampling.seed}; a difference is marked where its interval leaves out zero. "
            "B better: share of the resamplings. bins: what the bins of the images' counts move "
            "the difference by; differences are exact and intervals corrected by it."
        )
    labels = ("data set", "model", "score", "figure")
    return Table(
        "comparison",
        "Comparison of two benchmarks",
        labels,
        tuple(map(Column, columns)),
        tuple(rows),
        note.strip(),
    )


def _check_conventions(a: _Side, b: _Side) -> None:
    mine, theirs = a.benchmark.conventions, b.benchmark.conventions
    for name in dict.fromkeys([*mine, *theirs]):
        if mine.get(name) != theirs.get(name):
            raise ParameterError(
                f"conventions differ in {name!r}: {a.path} has {mine.get(name)!r}, "
                f"{b.path} has {theirs.get(name)!r}"
            )


def _match(a: _Side, b: _Side) -> list[tuple[Run, Run]]:
    """Pairs runs on the same data: of the two named models, or else of the same model."""
    named = a.model is not None
    pairs = []
    for run in a.runs:
        partners = [
            other
            for other in b.runs
            if other.data == run.data and (named or other.model == run.model)
        ]
        # Prefer the partner that ran in the same way: in-process, node or dumped.
        partners.sort(key=lambda other: other.via != run.via)
        pairs += [(run, partners[0])] if partners else []
    return pairs


def _compare_runs(comparison: Comparison, sides: tuple[_Side, _Side], a: Run, b: Run) -> None:
    """Adds the pairs of two runs.

    Raises:
        ParameterError: They saw different images or labels.
    """
    where = f"{_arrow(a.model, b.model)} on {a.data}"
    for what, mine, theirs in (
        ("data set", a.dataset, b.dataset),
        ("frames", a.frames, b.frames),
        ("labelled pixels", a.pixels, b.pixels),
    ):
        if mine != theirs:
            raise ParameterError(
                f"{where}: {what} differ: {sides[0].path} has {mine}, {sides[1].path} has {theirs}"
            )
    shared = [score for score in a.scores if score in b.scores]
    for name, run, other in (("A", a, b), ("B", b, a)):
        if missing := [score for score in run.scores if score not in other.scores]:
            comparison.notes.append(f"only in {name}: {where}: {_listing(missing)}")
    counts = None
    if comparison.resampling.replicates and shared:
        counts = _image_counts(comparison, sides, a, b, where)
    for score in shared:
        pair = Pair(a.model, b.model, a.via, b.via, a.data, score)
        pair.figures = _point_differences(a, b, score)
        if counts is not None and all(score in side.scores for side in counts):
            pair.images = len(counts[0].names)
            _add_intervals(pair, counts, comparison.resampling, where)
        comparison.pairs.append(pair)
    if a.segmentation is not None and b.segmentation is not None:
        figures = [Difference(MIOU, a.segmentation.mIoU, b.segmentation.mIoU)]
        pair = Pair(a.model, b.model, a.via, b.via, a.data, "", figures=figures)
        comparison.pairs.append(pair)


def _point_differences(a: Run, b: Run, score: str) -> list[Difference]:
    mine, theirs = a.scores[score], b.scores[score]
    figures = [Difference(name, getattr(mine, name), getattr(theirs, name)) for name in FIGURES]
    if mine.per_image is not None and theirs.per_image is not None:
        figures.append(Difference(PER_IMAGE_AP, mine.per_image.AP, theirs.per_image.AP))
    return figures


def _image_counts(
    comparison: Comparison, sides: tuple[_Side, _Side], a: Run, b: Run, where: str
) -> tuple[ImageCounts, ImageCounts] | None:
    """Both sides' counts, or None and a note where there are none or too few images."""
    mine, theirs = sides[0].images(a), sides[1].images(b)
    for side, run, found in zip(sides, (a, b), (mine, theirs), strict=True):
        if found is None:
            why = f"{image_counts_path(side.path.parent, run)} is missing"
            if run.via == NODE:
                why = "images are not counted in runs through the node"
            comparison.notes.append(f"{where}: no interval, {why}")
    if mine is None or theirs is None:
        return None
    if sorted(mine.names) != sorted(theirs.names):
        odd = sorted({*mine.names} ^ {*theirs.names})
        which = f"only one side has {odd[0]!r}" if odd else "names repeat"
        raise ParameterError(f"{where}: images differ: {which}")
    images = len(mine.names)
    if images < 2:
        comparison.notes.append(f"{where}: no interval, {images} image")
        return None
    if images < FEW_IMAGES:
        comparison.notes.append(
            f"{where}: {images} images are few; intervals from so few are too narrow"
        )
    return mine, theirs


def _add_intervals(
    pair: Pair, counts: Sequence[ImageCounts], resampling: Resampling, where: str
) -> None:
    """Resamples the images of one score and fills in the intervals.

    Raises:
        ParameterError: The ground truth of an image differs.
    """
    a, b = counts
    # The place of A's images in B.
    places = {name: place for place, name in enumerate(b.names)}
    order = np.array([places[name] for name in a.names])
    histograms = a.counts(pair.score), tuple(kind[order] for kind in b.counts(pair.score))
    for mine, theirs in zip(*histograms, strict=True):
        other = np.flatnonzero(mine.sum(axis=1) != theirs.sum(axis=1))
        if other.size:
            raise ParameterError(f"{where}: ground truth of {a.names[other[0]]!r} differs")
    weights = draw_images(len(a.names), resampling.replicates, resampling.seed)
    # The first row is every image once.
    weights = np.vstack([np.ones(len(a.names)), weights])
    samples = [pooled_figures(weights, *kinds) for kinds in histograms]
    own = a.per_image(pair.score)["AP"], b.per_image(pair.score)["AP"][order]
    for figures, values in zip(samples, own, strict=True):
        figures[PER_IMAGE_AP] = weighted_means(weights, values)
    for figure in pair.figures:
        if figure.difference is not None:
            drawn = 100 * (samples[1][figure.figure] - samples[0][figure.figure])
            _fill_in(figure, drawn, resampling.confidence)


def _fill_in(figure: Difference, drawn: np.ndarray, confidence: float) -> None:
    """The interval from differences in percent, of which the first is over every image once."""
    if figure.difference is None or not np.isfinite(drawn[0]):
        return
    figure.binning = float(drawn[0] - figure.difference)
    replicates = drawn[1:] - figure.binning
    replicates = replicates[np.isfinite(replicates)]
    if not replicates.size:
        return
    figure.low, figure.high = interval(replicates, confidence / 100)
    gain = replicates if _HIGHER_IS_BETTER[figure.figure] else -replicates
    figure.b_better = float(100 * np.mean((gain > 0) + 0.5 * (gain == 0)))


def _difference_cells(figure: Difference) -> tuple[Cell, ...]:
    between = UNDEFINED
    if figure.low is not None and figure.high is not None:
        between = f"[{_signed(figure.low)}, {_signed(figure.high)}]"
    return (
        Cell(format_number(figure.a)),
        Cell(format_number(figure.b)),
        Cell(_signed(figure.difference), figure.is_clear),
        Cell(between),
        Cell(UNDEFINED if figure.b_better is None else f"{figure.b_better:.1f}"),
        Cell(_signed(figure.binning)),
    )


def _signed(value: float | None) -> str:
    # Adding zero turns -0.0 into 0.0.
    return format_number(None if value is None else round(value, 2) + 0.0, "+.2f")


def _models(pair: Pair) -> str:
    ways = (pair.via_a, pair.via_b) if pair.via_a != pair.via_b else ("", "")
    names = [
        f"{model} ({way})" if way else model
        for model, way in zip((pair.model_a, pair.model_b), ways, strict=True)
    ]
    return _arrow(*names)


def _arrow(a: str, b: str) -> str:
    return a if a == b else f"{a} → {b}"


def _contents(side: _Side) -> str:
    found = dict.fromkeys(f"{run.model} on {run.data}" for run in side.runs)
    return f"{side.path} has {_listing(found)}"


def _listing(names: Iterable[str] | Mapping[str, Any]) -> str:
    return ", ".join(names) or "nothing"

# SPDX-License-Identifier: Apache-2.0
"""Published figures beside those that a run of their recipe gave."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anomaly_seg_ros.errors import OutputError
from training.recipes.schema import METRICS, PublishedFigures

_POOLED = ("AUROC", "AP", "FPR95")


@dataclass(frozen=True)
class Comparison:
    """One published figure and the run's, in percent.

    Attributes:
        row: Table and row of the paper, or the model.
        set: Name of the set.
        score: Anomaly score, or "".
        metric: A key of :data:`~training.recipes.schema.METRICS`.
        published: What was published.
        reproduced: The run's; None if it is not defined, as the AP without anomalies.
    """

    row: str
    set: str
    score: str
    metric: str
    published: float
    reproduced: float | None


def read_runs(path: Path) -> dict[str, dict[str, Any]]:
    """Reads the runs of ``benchmark.json``, by the name of the set.

    Raises:
        OutputError: It is missing or no benchmark.
    """
    try:
        runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
        return {run["data"]: run for run in runs}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"cannot read {path}: {error}") from error


def compared(
    figures: Sequence[PublishedFigures], runs: Mapping[str, Mapping[str, Any]], fpr95: str
) -> list[Comparison]:
    """Finds the run's figure for each published one.

    Args:
        figures: What was published.
        runs: Runs of ``benchmark.json`` by set.
        fpr95: Convention of the pooled FPR95.
    """
    return [
        Comparison(row.row, row.set, row.score, metric, value, _found(row, metric, runs, fpr95))
        for row in figures
        for metric, value in row.values.items()
    ]


def _found(
    row: PublishedFigures, metric: str, runs: Mapping[str, Mapping[str, Any]], fpr95: str
) -> float | None:
    run = runs.get(row.set, {})
    if not METRICS[metric]:
        return (run.get("segmentation") or {}).get(metric)
    if metric not in _POOLED:
        return ((run.get("open_set") or {}).get(row.score) or {}).get(metric)
    scores = run["scores"].get(row.score, {}) if run else {}
    if row.from_m >= 0:
        bins = scores.get("distance") or []
        scores = next((b for b in bins if b["from_m"] == row.from_m), {})
    elif row.per_image:
        scores = scores.get("per_image") or {}
    elif metric == "FPR95":
        return (scores.get("FPR95_conventions") or {}).get(fpr95)
    return scores.get(metric)


def markdown(comparisons: Sequence[Comparison], note: str) -> str:
    """The table, with a note above it."""
    if not comparisons:
        return f"{note}\n"
    lines = ["| row | data | score | metric | published | reproduced | difference |"]
    lines.append("| --- | --- | --- | --- | ---: | ---: | ---: |")
    for c in comparisons:
        found, difference = "-", "-"
        if c.reproduced is not None:
            found, difference = f"{c.reproduced:.2f}", f"{c.reproduced - c.published:+.2f}"
        cells = (c.row, c.set, c.score, c.metric, f"{c.published:.2f}", found, difference)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([note, "", *lines]) + "\n"


def documents(comparisons: Sequence[Comparison]) -> Iterator[dict[str, Any]]:
    """JSON-like rows."""
    for c in comparisons:
        yield asdict(c)

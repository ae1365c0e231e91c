# SPDX-License-Identifier: Apache-2.0
"""Runs the toy, and writes its figures and its picture.

    python -m training.toy_hybrid

The page ``docs/flow.md`` shows both; a test compares its table with the figures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.system.tool import run_tool
from training.engine.storage import write_atomically
from training.toy_hybrid.experiment import FLOWS, ToyOptions, measure, train_scores
from training.toy_hybrid.picture import draw
from training.toy_hybrid.points import draw_points

DOCS = Path(__file__).resolve().parents[2] / "docs"
FIGURES, PICTURE = DOCS / "toy_hybrid.json", DOCS / "images" / "toy_hybrid.svg"
COLUMNS = {
    "between": "AUROC between",
    "around": "AUROC around",
    "AUROC": "AUROC",
    "AP": "AP",
    "FPR95": "FPR95",
}
ROWS = {
    "msp": "class posterior, 1 - max P(y given x)",
    "outlier_head": "discriminative, ln P(d_out given x)",
    "energy": "unnormalised likelihood, -ln p^(x)",
    "dense_hybrid": "hybrid with it (eq. 8)",
    **{
        key: text
        for size in FLOWS
        for key, text in (
            (f"flow_density_{size}", f"generative, -ln p(x), flow of {size} steps"),
            (f"flow_hybrid_{size}", "hybrid with it (eq. 1)"),
        )
    },
}

Results = dict[str, Any]


def run(options: ToyOptions) -> tuple[Results, str]:
    """Trains and measures all seeds.

    Returns:
        ``options``, and ``scores``: score -> figure -> value of each seed, in percent; and the
        picture of the first seed as SVG.
    """
    found: dict[str, dict[str, list[float]]] = {
        score: {name: [] for name in COLUMNS} for score in ROWS
    }
    for seed in range(options.seeds):
        points = draw_points("test", seed, options.test_inliers, options.test_outliers)
        trained = train_scores(options, seed)
        for name, score in trained.items():
            for figure, value in measure(score, points).items():
                found[name][figure].append(round(100 * value, 2))
        if seed == 0:
            drawn = trained
    results = {"options": asdict(options), "scores": found}
    return results, draw(drawn, options, found)


def table(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Formats mean and standard deviation over the seeds as Markdown."""
    lines = [
        "| score | " + " | ".join(COLUMNS.values()) + " |",
        "| --- |" + " --- |" * len(COLUMNS),
    ]
    for name, text in ROWS.items():
        cells = (
            f"{np.mean(scores[name][key]):.1f} ± {np.std(scores[name][key]):.1f}"
            for key in COLUMNS
        )
        lines.append(f"| {text} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training.toy_hybrid", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--seeds", type=int, default=ToyOptions.seeds)
    parser.add_argument("--steps", type=int, default=ToyOptions.steps, help="of the classifier")
    parser.add_argument("--flow-steps", type=int, default=ToyOptions.flow_steps)
    parser.add_argument("--figures", type=Path, default=FIGURES, help="*.json")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="*.svg")
    parsed = parser.parse_args(arguments)

    def start() -> None:
        for key in ("seeds", "steps", "flow_steps"):
            if (value := getattr(parsed, key)) < 1:
                option = "--" + key.replace("_", "-")
                raise ParameterError(f"{option} {value}: expected at least 1")
        torch.set_num_threads(1)  # the sums' order, and so the figures, depend on it
        options = ToyOptions(seeds=parsed.seeds, steps=parsed.steps, flow_steps=parsed.flow_steps)
        results, picture = run(options)
        text = json.dumps(results, indent=1) + "\n"
        for path, content in ((parsed.figures, text), (parsed.picture, picture)):
            write_atomically(path, lambda file, content=content: file.write(content.encode()))
            print(f"wrote {path}")
        print(table(results["scores"]))

    return run_tool("training.toy_hybrid", start)

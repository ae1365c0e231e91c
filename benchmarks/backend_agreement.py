# SPDX-License-Identifier: Apache-2.0
r"""What a faster backend costs in accuracy: labels and anomaly scores against torch in float32.

    python -m benchmarks.backend_agreement --backends openvino:bf16 torch:bf16 \
        --data ../shared/data/anomaly/*

Every frame goes through the reference and through each backend. Printed as Markdown, a row each
model, backend and data set: the share of pixels with equal labels (mean over frames, and of the
worst frame), and the pooled AP and FPR95 of the model's own score, with the difference to the
reference in points. ``--document FILE`` writes the table between the marks
``<!-- agreement -->`` of a document.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from anomaly_seg_ros.datasets import Dataset, open_dataset
from anomaly_seg_ros.inference.options import TORCH
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.io.marked_text import write_between
from anomaly_seg_ros.metrics.pixel_scores import PixelScores
from anomaly_seg_ros.system.tool import run_tool

MARKS = "<!-- agreement -->", "<!-- /agreement -->"
HEAD = (
    "| model | backend | data | frames | equal labels | worst frame | AP | difference | FPR95 "
    "| difference |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
)


class Candidate(NamedTuple):
    """A backend and a precision."""

    backend: str
    precision: str

    @classmethod
    def parse(cls, text: str) -> Candidate:
        """Reads ``backend`` or ``backend:precision``."""
        backend, _, precision = text.partition(":")
        return cls(backend, precision or "auto")


class Agreement:
    """The figures of one candidate on one data set, collected frame by frame."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.agreement: list[float] = []
        self.scores = PixelScores()


def compare(
    model: str, candidates: Sequence[Candidate], data: Dataset, limit: int | None
) -> tuple[Agreement, list[Agreement]]:
    """The reference's row and one for each candidate."""
    segmenters = [Segmenter.load(model, precision="fp32", backend=TORCH)]
    segmenters += [
        Segmenter.load(model, precision=c.precision, backend=c.backend) for c in candidates
    ]
    rows = [Agreement(f"{s.backend} {s.precision}") for s in segmenters]
    score = segmenters[0].metadata.default_score
    samples = [data[index] for index in range(len(data))][:limit]
    for sample in tqdm(samples, f"{model} on {data.name}", unit="frame"):
        loaded = sample.load()
        reference = None
        for segmenter, row in zip(segmenters, rows, strict=True):
            prediction = segmenter.predict(loaded.image, (score,), confidence=False)
            reference = prediction.labels if reference is None else reference
            row.agreement.append(float(np.mean(prediction.labels == reference)))
            row.scores.update(prediction.scores[score], loaded.anomaly_mask)
    return rows[0], rows[1:]


def table_rows(
    model: str, data: str, reference: Agreement, others: Sequence[Agreement]
) -> list[str]:
    """Markdown rows, the reference first."""
    base = reference.scores.compute()
    lines = []
    for row in (reference, *others):
        figures = row.scores.compute()
        cells = [model, row.name, data, str(len(row.agreement))]
        if row is reference:
            cells += ["", "", f"{100 * figures.AP:.2f}", "", f"{100 * figures.FPR95:.2f}", ""]
        else:
            cells += [f"{100 * np.mean(row.agreement):.2f} %", f"{100 * min(row.agreement):.2f} %"]
            for value, before in ((figures.AP, base.AP), (figures.FPR95, base.FPR95)):
                cells += [f"{100 * value:.2f}", f"{100 * (value - before):+.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["default", "erfnet_open_set"])
    parser.add_argument("--backends", nargs="+", default=["auto"], metavar="BACKEND[:PRECISION]")
    parser.add_argument("--data", nargs="+", required=True, metavar="FOLDER")
    parser.add_argument("--limit", type=int, help="most frames of each data set")
    parser.add_argument("--document", type=Path, help="also write the table there")
    arguments = parser.parse_args()

    def body() -> None:
        candidates = [Candidate.parse(text) for text in arguments.backends]
        lines = list(HEAD)
        for model in arguments.models:
            for folder in arguments.data:
                data = open_dataset("auto", folder)
                reference, others = compare(model, candidates, data, arguments.limit)
                lines += table_rows(model, Path(folder).name, reference, others)
        text = "\n".join(lines)
        print(text)
        if arguments.document is not None:
            write_between(arguments.document, *MARKS, f"\n{text}\n")

    return run_tool("backend_agreement", body)


if __name__ == "__main__":
    sys.exit(main())

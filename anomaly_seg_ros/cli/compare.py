# SPDX-License-Identifier: Apache-2.0
"""Compares two benchmarks: each figure's difference with a confidence interval over images.

    compare before/benchmark.json after/benchmark.json
    compare before after --markdown
    compare out/benchmark.json out/benchmark.json --model-a erfnet --model-b default

Figures of the same model (or of two named models), data set and score are paired. The same images
are resampled on both sides, so the image counts that `evaluate` writes must be beside each file
(images/*.npz). Benchmarks of other images, labels or conventions are refused.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from anomaly_seg_ros.evaluation.compare import (
    Comparison,
    Resampling,
    compare_benchmarks,
    comparison_table,
)
from anomaly_seg_ros.evaluation.table_formats import markdown_text, to_markdown, to_text
from anomaly_seg_ros.io.atomic import write_atomically
from anomaly_seg_ros.system.tool import run_tool

TOOL = "compare"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = _parser().parse_args(argv)

    def body() -> None:
        comparison = compare_benchmarks(
            arguments.a,
            arguments.b,
            arguments.model_a,
            arguments.model_b,
            Resampling(arguments.bootstrap, arguments.seed, arguments.confidence),
        )
        text = format_comparison(comparison, arguments.form)
        if arguments.out is None:
            print(text)
        else:
            write_atomically(arguments.out, f"{text}\n".encode())

    return run_tool(TOOL, body)


def format_comparison(comparison: Comparison, form: str) -> str:
    """The comparison as ``text``, ``markdown`` or ``json``, without a final newline."""
    if form == "json":
        return comparison.to_json()
    table = comparison_table(comparison)
    if form == "markdown":
        notes = [f"- {markdown_text(note)}" for note in comparison.notes]
        return "\n\n".join([to_markdown(table), *(["\n".join(notes)] if notes else [])])
    return "\n".join([to_text(table), *(f"note: {note}" for note in comparison.notes)])


def _parser() -> argparse.ArgumentParser:
    default = Resampling()
    parser = argparse.ArgumentParser(
        prog=TOOL, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a", metavar="A", help="benchmark.json, or the folder that has it")
    parser.add_argument("b", metavar="B", help="the other one; differences are B - A")
    parser.add_argument("--model-a", metavar="NAME", help="model of A to pair with --model-b")
    parser.add_argument("--model-b", metavar="NAME", help="model of B to pair with --model-a")
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=default.replicates,
        metavar="N",
        help="resamplings of the images, 0 for no intervals (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=default.seed, help="default: %(default)s")
    parser.add_argument(
        "--confidence",
        type=float,
        default=default.confidence,
        metavar="PERCENT",
        help="confidence of the intervals (default: %(default)g)",
    )
    parser.set_defaults(form="text")
    forms = parser.add_mutually_exclusive_group()
    for form in ("markdown", "json"):
        forms.add_argument(
            f"--{form}", dest="form", action="store_const", const=form, help=f"write {form}"
        )
    parser.add_argument("--out", metavar="FILE", help="write there instead of printing")
    return parser


if __name__ == "__main__":
    sys.exit(main())

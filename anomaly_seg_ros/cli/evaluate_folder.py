# SPDX-License-Identifier: Apache-2.0
"""Makes a bag of a data set, replays it through the detector, and writes the results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from anomaly_seg_ros.cli.dataset_options import add_dataset_options, dataset_options
from anomaly_seg_ros.cli.options import add_run_options, run_options
from anomaly_seg_ros.datasets import DATASETS, open_dataset
from anomaly_seg_ros.datasets.folder import LABEL_KINDS
from anomaly_seg_ros.system.tool import run_tool

TOOL = "evaluate_folder"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog=TOOL, description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--dataset", default="auto", choices=("auto", *DATASETS))
    add_dataset_options(parser)
    parser.add_argument("--labels", choices=LABEL_KINDS, help="short for --option labels=...")
    parser.add_argument("--limit", type=int, help="use only the first LIMIT frames")
    parser.add_argument("--keep-bag", action="store_true", help="leave OUT/bag behind")
    parser.add_argument("--video", action="store_true", help="also write overlay.mp4")
    add_run_options(parser)
    arguments = parser.parse_args(argv)

    def body() -> None:
        # Not above: --help waits for no torch.
        from anomaly_seg_ros.evaluation.dataset_run import evaluate_dataset
        from anomaly_seg_ros.evaluation.tables import format_run

        given = dataset_options(arguments, labels=arguments.labels)
        dataset = open_dataset(arguments.dataset, arguments.data, **given)
        options = run_options(arguments, video=arguments.video)
        result = evaluate_dataset(
            dataset, arguments.out, options, arguments.limit, arguments.keep_bag
        )
        print(format_run(result))
        print(f"\nwritten: {arguments.out / 'metrics.json'}, {arguments.out / 'report.html'}")

    return run_tool(TOOL, body)


if __name__ == "__main__":
    sys.exit(main())

"""Makes a bag of a data set, replays it through the detector, and writes the results."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from anomaly_seg_ros.bags.writer import BagWriter
from anomaly_seg_ros.cli.dataset_options import add_dataset_options, dataset_options
from anomaly_seg_ros.cli.options import add_run_options, run_options
from anomaly_seg_ros.datasets import DATASETS, Dataset, open_dataset
from anomaly_seg_ros.datasets.folder import LABEL_KINDS
from anomaly_seg_ros.datasets.mask_convention import check_mask_convention
from anomaly_seg_ros.evaluation.bag_run import IN_PROCESS, RunOptions, evaluate_bag
from anomaly_seg_ros.evaluation.results import EvaluationResult, format_table
from anomaly_seg_ros.ros.discovery import check_discovery
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
    parser.add_argument("--limit", type=int, help="only the first so many frames")
    parser.add_argument("--keep-bag", action="store_true", help="leave OUT/bag behind")
    parser.add_argument("--video", action="store_true", help="also write overlay.mp4")
    add_run_options(parser)
    arguments = parser.parse_args(argv)

    def body() -> None:
        given = dataset_options(arguments, labels=arguments.labels)
        dataset = open_dataset(arguments.dataset, arguments.data, **given)
        options = run_options(arguments, video=arguments.video)
        result = evaluate_dataset(
            dataset, arguments.out, options, arguments.limit, arguments.keep_bag
        )
        print(format_table(result))
        print(f"\nwritten: {arguments.out / 'metrics.json'}, {arguments.out / 'report.html'}")

    return run_tool(TOOL, body)


def evaluate_dataset(
    dataset: Dataset,
    out: Path,
    options: RunOptions,
    limit: int | None = None,
    keep_bag: bool = False,
) -> EvaluationResult:
    """Makes ``out/bag`` and evaluates it.

    Args:
        dataset: What to evaluate on.
        out: Folder for the bag and the results.
        options: Of the run.
        limit: Only the first so many frames.
        keep_bag: Whether the bag stays; raw frames take 6 MB each at 2048x1024.

    Raises:
        AnomalySegError: Whatever the user can put right.
    """
    check_mask_convention(dataset, dataset.root)
    if options.mode != IN_PROCESS:
        check_discovery(os.environ)  # before the bag is written
    bag = out / "bag"
    count = min(len(dataset), limit or len(dataset))
    writer = BagWriter(
        bag,
        frame_rate=dataset.frame_rate or 10.0,
        dataset=f"{dataset.name}: {dataset.root.resolve().name}",
        taxonomy=dataset.taxonomy_name,
        overwrite=True,
    )
    with writer:
        for index in tqdm(range(count), "writing the bag", unit="frame", file=sys.stderr):
            writer.write(dataset[index])
    try:
        return evaluate_bag(bag, out, options)
    finally:
        if not keep_bag:
            shutil.rmtree(bag)


if __name__ == "__main__":
    sys.exit(main())

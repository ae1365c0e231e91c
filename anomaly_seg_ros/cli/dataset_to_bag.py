# SPDX-License-Identifier: Apache-2.0
"""Converts a data set on disk to a rosbag2 for playing and evaluation."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from tqdm import tqdm

from anomaly_seg_ros.bags.writer import STORAGES, BagWriter, bag_size
from anomaly_seg_ros.cli.dataset_options import add_dataset_options, dataset_options
from anomaly_seg_ros.datasets import DATASETS, open_dataset
from anomaly_seg_ros.datasets.label_scan import check_mask_convention
from anomaly_seg_ros.system.tool import run_tool

TOOL = "dataset_to_bag"
DEFAULT_FRAME_RATE = 10.0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code (2 for wrong usage comes from argparse)."""
    arguments = _parser().parse_args(argv)
    return run_tool(TOOL, lambda: convert(arguments))


def convert(arguments: argparse.Namespace) -> None:
    """Writes the bag described by the arguments.

    Raises:
        AnomalySegError: Any error that the user can correct.
    """
    dataset = open_dataset(arguments.dataset, arguments.root, **dataset_options(arguments))
    check_mask_convention(dataset, dataset.root)
    count = min(len(dataset), arguments.limit or len(dataset))
    writer = BagWriter(
        arguments.out,
        storage=arguments.storage,
        compressed=arguments.compressed,
        frame_rate=arguments.frame_rate or dataset.frame_rate or DEFAULT_FRAME_RATE,
        jpeg_quality=arguments.jpeg_quality,
        dataset=dataset.name,
        taxonomy=dataset.taxonomy_name,
        classes=dataset.classes,
        overwrite=arguments.overwrite,
    )
    with writer:
        for index in tqdm(range(count), desc=dataset.name, unit="frame", file=sys.stderr):
            writer.write(dataset[index])
    megabytes = bag_size(arguments.out) / 1e6
    print(
        f"{arguments.out}: {writer.frames} frames of '{dataset.name}', "
        f"{megabytes:.1f} MB ({arguments.storage})"
    )


def _parser() -> argparse.ArgumentParser:
    trees = "\n".join(f"{name}:\n{adapter.tree}" for name, adapter in DATASETS.items())
    parser = argparse.ArgumentParser(
        prog=TOOL,
        description=__doc__,
        epilog=f"data sets and the folder trees they expect:\n{trees}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--dataset",
        default="auto",
        choices=("auto", *DATASETS),
        help="which data set lies in ROOT; auto tells by its folder tree (default: auto)",
    )
    parser.add_argument("--root", required=True, help="folder of the data set")
    parser.add_argument("--out", required=True, metavar="BAG", help="folder of the new bag")
    add_dataset_options(parser)
    parser.add_argument(
        "--storage", default="mcap", choices=tuple(STORAGES), help="file format (default: mcap)"
    )
    parser.add_argument(
        "--compressed", action="store_true", help="write frames as JPEG instead of raw rgb8"
    )
    parser.add_argument(
        "--jpeg-quality", type=int, default=95, metavar="Q", help="1 to 100 (default: 95)"
    )
    parser.add_argument(
        "--frame-rate",
        type=_positive(float),
        metavar="HZ",
        help="frames a second (default: the data set's own, otherwise 10)",
    )
    parser.add_argument(
        "--limit", type=_positive(int), metavar="N", help="only the first N frames"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing bag")
    return parser


def _positive(kind: type[float]) -> Callable[[str], float]:
    """An argparse type: a finite number above zero."""

    def parse(text: str) -> float:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise ValueError
        return value

    parse.__name__ = f"positive {kind.__name__}"  # argparse prints it
    return parse


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Shows the product at work: replays a clip through the node, evaluates it, makes pictures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from anomaly_seg_ros.cli.dataset_options import add_mask_255
from anomaly_seg_ros.cli.options import add_run_options, run_options
from anomaly_seg_ros.datasets import open_dataset
from anomaly_seg_ros.inference.options import AUTO
from anomaly_seg_ros.system.resources import asset_path
from anomaly_seg_ros.system.tool import run_tool

TOOL = "demo"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog=TOOL, description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/demo"))
    parser.add_argument("--data", type=Path, help="another data set than the rendered clip")
    add_mask_255(parser)
    parser.add_argument("--limit", type=int, help="use only the first LIMIT frames")
    add_run_options(parser)
    parser.set_defaults(backend=AUTO)  # what users of the node see
    arguments = parser.parse_args(argv)

    def body() -> None:
        # Not above: --help waits for no torch.
        from anomaly_seg_ros.evaluation.dataset_run import evaluate_dataset
        from anomaly_seg_ros.evaluation.tables import format_run

        folder = arguments.data or asset_path("demo_clip")
        dataset = open_dataset("auto", folder, mask_255=arguments.mask_255)
        options = run_options(arguments, video=True)
        result = evaluate_dataset(dataset, arguments.out, options, arguments.limit, keep_bag=True)
        print(f"\n{format_run(result)}\n")
        for name, what in (
            ("report.html", "figures, curves and the worst frames; open it in a browser"),
            ("frames.html", "every frame of the film, by keyboard"),
            ("overlay.mp4", "input, labels with unknown regions, and anomaly score"),
            ("metrics.json", "the figures for programs"),
            ("bag", "the rosbag2 that was replayed: ros2 bag play it"),
        ):
            print(f"{arguments.out / name}: {what}")

    return run_tool(TOOL, body)


if __name__ == "__main__":
    sys.exit(main())

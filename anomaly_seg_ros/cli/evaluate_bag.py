# SPDX-License-Identifier: Apache-2.0
"""Replays a bag through the detector and writes metrics.json and report.html."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from anomaly_seg_ros.cli.bag_options import add_bag_options, bag_options
from anomaly_seg_ros.cli.options import add_run_options, run_options
from anomaly_seg_ros.system.tool import run_tool

TOOL = "evaluate_bag"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog=TOOL, description=__doc__)
    parser.add_argument("bag", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    add_run_options(parser)
    parser.add_argument("--node", help="use this running detector, such as /front/detector")
    add_bag_options(parser)
    parser.add_argument("--video", action="store_true", help="also write overlay.mp4")
    arguments = parser.parse_args(argv)

    def body() -> None:
        # Not above: --help waits for no torch.
        from anomaly_seg_ros.evaluation.bag_run import evaluate_bag
        from anomaly_seg_ros.evaluation.tables import format_run

        options = run_options(
            arguments,
            node=arguments.node,
            bag=bag_options(arguments),
            video=arguments.video,
        )
        print(format_run(evaluate_bag(arguments.bag, arguments.out, options)))

    return run_tool(TOOL, body)


if __name__ == "__main__":
    sys.exit(main())

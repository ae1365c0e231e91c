# SPDX-License-Identifier: Apache-2.0
"""Says what a file of weights is and whether it fits: network, release, classes, input, scores.

Reads safetensors of this package, public releases and checkpoints of a training, without running
anything that is pickled in them. Exit code 1: the file cannot be loaded; all keys that are
missing, unexpected or mis-shaped are listed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from anomaly_seg_ros.checkpoints.formats import FORMATS
from anomaly_seg_ros.checkpoints.inspection import as_text, inspect_checkpoint
from anomaly_seg_ros.checkpoints.loading import resolve_model
from anomaly_seg_ros.checkpoints.reading import read_checkpoint
from anomaly_seg_ros.cli.checkpoint_options import (
    add_num_classes,
    add_place_options,
    stated_taxonomy,
)
from anomaly_seg_ros.errors import CheckpointError
from anomaly_seg_ros.system.tool import run_tool

TOOL = "inspect_model"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog=TOOL, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model", nargs="?", default="default", help="a name, such as default, or a file"
    )
    parser.add_argument(
        "--as",
        dest="format_name",
        choices=FORMATS,
        help="compare with this network, whatever it is",
    )
    add_place_options(parser)
    add_num_classes(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    arguments = parser.parse_args(argv)

    def body() -> None:
        path = resolve_model(arguments.model)
        checkpoint = read_checkpoint(path, arguments.key, arguments.prefix)
        taxonomy = stated_taxonomy(arguments.num_classes)
        report = inspect_checkpoint(checkpoint, arguments.format_name, taxonomy)
        print(json.dumps(report, indent=1) if arguments.json else as_text(report))
        if report["error"]:
            raise CheckpointError(report["error"])

    return run_tool(TOOL, body)


if __name__ == "__main__":
    sys.exit(main())

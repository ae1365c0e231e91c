# SPDX-License-Identifier: Apache-2.0
"""Injects faults into a running detector and accounts for every frame.

    python -m tools.fault_replay --out out/faults                       100,000 generated frames
    python -m tools.fault_replay BAG --out out/faults --frames 5000     the pictures of a bag
    python -m tools.fault_replay --out out/faults --document docs/reliability.md

The detector runs in a process of its own, with a tiny network that can be told to fail. Writes
faults.json; the exit code is 1 if a guarantee was violated.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from anomaly_seg_ros.errors import AnomalySegError, OutputError
from anomaly_seg_ros.io.marked_text import write_between
from anomaly_seg_ros.ros.discovery import check_discovery
from anomaly_seg_ros.system.tool import run_tool
from tools.fault_replay.replay import FaultOptions, run_all
from tools.fault_replay.report import MARKS, summary, tables

TOOL = "inject_faults"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = _parser().parse_args(argv)

    def body() -> None:
        check_discovery(os.environ)
        options = FaultOptions(
            arguments.frames, arguments.seed, arguments.minimum, arguments.bag, arguments.kills
        )
        try:
            arguments.out.mkdir(parents=True, exist_ok=True)
            results = run_all(options, arguments.out)
            text = json.dumps(results, indent=1)
            (arguments.out / "faults.json").write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{arguments.out}: {error.strerror}") from error
        print("\n".join(summary(results)))
        if arguments.document is not None:
            write_between(arguments.document, *MARKS, f"\n\n{tables(results)}\n\n")
        if results["violations"]:
            raise AnomalySegError(
                f"{len(results['violations'])} violations: " + "; ".join(results["violations"][:5])
            )

    return run_tool(TOOL, body)


def _parser() -> argparse.ArgumentParser:
    default = FaultOptions()
    parser = argparse.ArgumentParser(
        prog=TOOL, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bag", type=Path, nargs="?", help="bag whose frames are the pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument(
        "--frames",
        type=int,
        default=default.frames,
        help="frames to publish (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=default.seed, help="default: %(default)s")
    parser.add_argument(
        "--minimum",
        type=int,
        default=default.minimum,
        help="least number of each kind of fault (default: %(default)s)",
    )
    parser.add_argument(
        "--kills",
        type=int,
        default=default.kills,
        help="how often the detector itself is killed (default: %(default)s)",
    )
    parser.add_argument("--document", type=Path, help="put the tables into this Markdown file")
    return parser


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Command-line options that the evaluation tools share."""

from __future__ import annotations

import argparse
from typing import Any

from anomaly_seg_ros.cli.network_options import add_segmenter_options, segmenter_options
from anomaly_seg_ros.evaluation.plan import MODES, RunOptions
from anomaly_seg_ros.inference.options import SegmenterOptions
from anomaly_seg_ros.scores import SCORES


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of :class:`RunOptions`, with its defaults."""
    default = RunOptions()
    parser.add_argument(
        "--model", default=default.model, help="a name, such as default, or a weights file"
    )
    add_segmenter_options(parser, SegmenterOptions())
    parser.add_argument("--score", default=default.score, choices=("auto", *SCORES))
    parser.add_argument("--mode", default=default.mode, choices=MODES)
    parser.add_argument(
        "--timeout", type=float, default=default.timeout, help="seconds to wait for one frame"
    )


def run_options(arguments: argparse.Namespace, **more: Any) -> RunOptions:
    """Builds the options from parsed arguments."""
    return RunOptions(
        model=arguments.model,
        segmenter=segmenter_options(arguments),
        score=arguments.score,
        mode=arguments.mode,
        timeout=arguments.timeout,
        **more,
    )

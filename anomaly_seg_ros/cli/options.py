"""Command-line options that the evaluation tools share."""

from __future__ import annotations

import argparse

from anomaly_seg_ros.devices import PRECISIONS
from anomaly_seg_ros.ros.evaluation_run import MODES, RunOptions
from anomaly_seg_ros.scores import SCORE_NAMES


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of :class:`RunOptions`; defaults stand there."""
    default = RunOptions()
    parser.add_argument(
        "--model", default=default.model, help="default, erfnet, or a weights file"
    )
    parser.add_argument("--device", default=default.device, help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--precision", default=default.precision, choices=PRECISIONS)
    parser.add_argument(
        "--inference-size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="input size of the network (default: the model's own)",
    )
    parser.add_argument("--score", default=default.score, choices=("auto", *SCORE_NAMES))
    parser.add_argument("--mode", default=default.mode, choices=MODES)
    parser.add_argument(
        "--timeout", type=float, default=default.timeout, help="seconds to wait for one frame"
    )


def run_options(arguments: argparse.Namespace, **more: object) -> RunOptions:
    """Collects parsed arguments."""
    size = arguments.inference_size
    return RunOptions(
        model=arguments.model,
        device=arguments.device,
        precision=arguments.precision,
        inference_size=None if size is None else (size[0], size[1]),
        score=arguments.score,
        mode=arguments.mode,
        timeout=arguments.timeout,
        **more,
    )

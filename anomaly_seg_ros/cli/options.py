"""Command-line options that the evaluation tools share."""

from __future__ import annotations

import argparse

from anomaly_seg_ros.backends.selection import BACKENDS
from anomaly_seg_ros.cli import BACKEND_HELP
from anomaly_seg_ros.devices import PRECISIONS
from anomaly_seg_ros.framing import INFERENCE_MODES
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
    parser.add_argument("--backend", default=default.backend, choices=BACKENDS, help=BACKEND_HELP)
    parser.add_argument(
        "--inference-size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="size to which frames are resized (default: the model's own; tiled: the frame's)",
    )
    parser.add_argument(
        "--inference-mode",
        default=default.inference_mode,
        choices=INFERENCE_MODES,
        help="how frames reach the network: resized, at full resolution, or in tiles",
    )
    parser.add_argument(
        "--tile-size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        default=default.tile_size,
        help="of tiles (default: %(default)s; 0 0: the model's inference size)",
    )
    parser.add_argument(
        "--tile-overlap",
        type=int,
        metavar="PIXELS",
        default=default.tile_overlap,
        help="that neighbouring tiles share at least (default: %(default)s)",
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
        backend=arguments.backend,
        inference_size=None if size is None else (size[0], size[1]),
        inference_mode=arguments.inference_mode,
        tile_size=(arguments.tile_size[0], arguments.tile_size[1]),
        tile_overlap=arguments.tile_overlap,
        score=arguments.score,
        mode=arguments.mode,
        timeout=arguments.timeout,
        **more,
    )

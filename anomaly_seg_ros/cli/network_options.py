"""Command-line options that say how the network runs; without ROS."""

from __future__ import annotations

import argparse
from typing import Any, Protocol

from anomaly_seg_ros.inference.backends.selection import BACKENDS
from anomaly_seg_ros.inference.preprocessing import INFERENCE_MODES
from anomaly_seg_ros.system.devices import PRECISIONS

BACKEND_HELP = (
    "what runs the network; the node's own default is auto, the fastest on this machine "
    "(default: %(default)s, whose digits other machines repeat)"
)


class Defaults(Protocol):
    """Has the attributes that the options set, with their defaults."""

    device: str
    precision: str
    backend: str
    inference_mode: str
    tile_size: tuple[int, int]
    tile_overlap: int


def add_network_options(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, default: Defaults | type[Defaults]
) -> None:
    """Adds them to a parser or one of its groups."""
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


def network_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was parsed, by the names of :class:`Defaults`, and ``inference_size``."""
    size = arguments.inference_size
    return {
        "device": arguments.device,
        "precision": arguments.precision,
        "backend": arguments.backend,
        "inference_size": None if size is None else tuple(size),
        "inference_mode": arguments.inference_mode,
        "tile_size": tuple(arguments.tile_size),
        "tile_overlap": arguments.tile_overlap,
    }

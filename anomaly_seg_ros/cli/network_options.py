# SPDX-License-Identifier: Apache-2.0
"""Command-line options that say how the network runs; without ROS."""

from __future__ import annotations

import argparse

from anomaly_seg_ros.inference.options import (
    BACKENDS,
    INFERENCE_MODES,
    PRECISIONS,
    SegmenterOptions,
)

BACKEND_HELP = (
    "what runs the network; the node's own default is auto, the fastest on this machine "
    "(default: %(default)s, whose digits other machines repeat)"
)


def add_segmenter_options(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, default: SegmenterOptions
) -> None:
    """Adds an option for each field of :class:`SegmenterOptions` to a parser or a group."""
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
        help="size of a tile (default: %(default)s; 0 0: the model's inference size)",
    )
    parser.add_argument(
        "--tile-overlap",
        type=int,
        metavar="PIXELS",
        default=default.tile_overlap,
        help="minimum overlap of neighbouring tiles (default: %(default)s)",
    )
    parser.add_argument(
        "--num-threads",
        type=int,
        metavar="N",
        default=default.num_threads,
        help="CPU threads of openvino and onnxruntime (default: as many as suit the machine)",
    )
    parser.add_argument(
        "--cuda-graphs",
        action="store_true",
        default=default.cuda_graphs,
        help="replay the network on a GPU as one graph per input size",
    )


def segmenter_options(arguments: argparse.Namespace) -> SegmenterOptions:
    """The options that :func:`add_segmenter_options` parsed."""
    size = arguments.inference_size
    return SegmenterOptions(
        device=arguments.device,
        precision=arguments.precision,
        inference_size=None if size is None else tuple(size),
        inference_mode=arguments.inference_mode,
        tile_size=tuple(arguments.tile_size),
        tile_overlap=arguments.tile_overlap,
        backend=arguments.backend,
        num_threads=arguments.num_threads,
        cuda_graphs=arguments.cuda_graphs,
    )

# SPDX-License-Identifier: Apache-2.0
"""Command-line options of a bag with ground truth."""

from __future__ import annotations

import argparse
import dataclasses

from anomaly_seg_ros.bags.evaluation_input import BagOptions
from anomaly_seg_ros.labels import MASK_255


def add_bag_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of :class:`BagOptions`, with its defaults."""
    parser.add_argument("--image-topic", help="images of the bag (default: found in the bag)")
    parser.add_argument(
        "--stamp-tolerance",
        type=float,
        default=BagOptions.stamp_tolerance,
        metavar="SECONDS",
        help="by which the stamps of a frame and its ground truth may differ (default: 0, equal)",
    )
    parser.add_argument(
        "--allow-unmatched",
        action="store_true",
        help="leave out ground truth that matches no frame, instead of refusing the bag",
    )
    parser.add_argument(
        "--mask-255",
        choices=MASK_255,
        help="what 255 means in the anomaly masks; required where they hold 0 and 255 alone",
    )
    parser.add_argument(
        "--bit-depth",
        type=int,
        default=BagOptions.bit_depth,
        metavar="BITS",
        help="used bits of 16-bit images, such as 12 (default: all; a note if they look fewer)",
    )


def bag_options(arguments: argparse.Namespace) -> BagOptions:
    """Builds the options from parsed arguments."""
    names = [option.name for option in dataclasses.fields(BagOptions)]
    return BagOptions(**{name: getattr(arguments, name) for name in names})

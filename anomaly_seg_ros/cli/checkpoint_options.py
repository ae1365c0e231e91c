# SPDX-License-Identifier: Apache-2.0
"""Options that settle what a file of weights leaves open, for the tools that read any file."""

from __future__ import annotations

import argparse

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.taxonomy import Taxonomy, known_taxonomy, numbered_taxonomy


def add_place_options(parser: argparse.ArgumentParser) -> None:
    """Adds ``--key`` and ``--prefix``."""
    parser.add_argument("--key", help="place of the state dict in the file, such as ema")
    parser.add_argument(
        "--prefix", help="of the keys to read, such as teacher., where a file holds several sets"
    )


def add_num_classes(parser: argparse._ActionsContainer) -> None:
    """Adds ``--num-classes``."""
    parser.add_argument(
        "--num-classes",
        type=int,
        metavar="N",
        help="classes among the outputs: all of them, or one less if the last is an abstention "
        "class (without it 20 outputs are taken for the 19 of Cityscapes and such a class)",
    )


def stated_taxonomy(num_classes: int | None) -> Taxonomy | None:
    """The classes that ``--num-classes`` stands for, or None without it.

    Raises:
        ParameterError: Fewer than one class.
    """
    if num_classes is None:
        return None
    if num_classes < 1:
        raise ParameterError(f"--num-classes {num_classes}: at least 1")
    return known_taxonomy(num_classes) or numbered_taxonomy(num_classes)

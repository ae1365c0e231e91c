# SPDX-License-Identifier: Apache-2.0
"""Command-line options of a data set, for the tools that read one."""

from __future__ import annotations

import argparse

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.labels import MASK_255

_SWITCHES = {"true": True, "false": False}


def add_dataset_options(parser: argparse.ArgumentParser) -> None:
    """Adds ``--split``, ``--mask-255`` and ``--option``."""
    parser.add_argument("--split", help="such as train, val or test")
    add_mask_255(parser)
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="further option of the data set, such as labels=classes (folder), "
        "void_as_unknown=true (cityscapes), no_known=true (lost_and_found), fold=t5 "
        "(street_hazards); see docs/datasets.md",
    )


def add_mask_255(parser: argparse.ArgumentParser) -> None:
    """Adds ``--mask-255``."""
    parser.add_argument(
        "--mask-255",
        choices=MASK_255,
        help="what 255 means in anomaly masks of a folder that hold 0 and 255 alone",
    )


def dataset_options(
    arguments: argparse.Namespace, **more: str | None
) -> dict[str, str | bool | None]:
    """Collects the options for :func:`~anomaly_seg_ros.datasets.open_dataset`; None if not given.

    Args:
        arguments: The parsed arguments.
        more: Options that have a switch of their own.

    Raises:
        ParameterError: No ``NAME=VALUE``, or an option that is given twice.
    """
    options: dict[str, str | bool | None] = {
        "split": arguments.split,
        "mask_255": arguments.mask_255,
        **more,
    }
    for text in arguments.option:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise ParameterError(f"--option {text}: expected NAME=VALUE")
        if options.get(name) is not None:
            raise ParameterError(f"--option {text}: '{name}' is given twice")
        options[name] = _SWITCHES.get(value.lower(), value)
    return options

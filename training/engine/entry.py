# SPDX-License-Identifier: Apache-2.0
"""Common parts of the training entries: command line, device, processes, exit code."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from anomaly_seg_ros.system.malloc_tuning import keep_freed_memory
from anomaly_seg_ros.system.tool import run_tool
from training.engine.config import CONFIGS, add_config_options, load_config
from training.engine.distributed import Distributed, training_device


@dataclass(frozen=True)
class Run:
    """One run of an entry.

    Attributes:
        config: Configuration, see :mod:`training.engine.config`.
        folder: Run folder, for everything that the run writes.
        data: Folder of the data sets.
        device: Device of this process.
        distributed: Rank and world size of this process.
    """

    config: dict[str, Any]
    folder: Path
    data: Path
    device: torch.device
    distributed: Distributed

    def say(self, text: str) -> None:
        """Prints on the main process only."""
        if self.distributed.is_main:
            print(text, flush=True)


def data_folder() -> Path:
    """Returns ``$ANOMALY_SEG_DATA``, or ``../shared/data`` if it is not set."""
    return folder_argument(os.environ.get("ANOMALY_SEG_DATA", "../shared/data"))


def folder_argument(text: str) -> Path:
    """The path of a folder, below ~ as well: shells leave that in ``DATA=~/x`` of make alone."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 - a user who is unknown is no error here


def use_exact_float32() -> None:
    """Switches off TF32 for float32 convolutions in this process.

    TF32 keeps only 10 bits of the mantissa and is cuDNN's default on GPUs that support it. It
    would ruin the inverse and the likelihood of a flow, and ``precision: fp32`` would be
    misleading. Convolutions under bf16 or fp16 autocast are not affected.
    """
    # For the whole process, because backward passes, and recomputed steps of a flow, run outside
    # of any context around the forward pass.
    torch.backends.cudnn.allow_tf32 = False


def run_entry(
    tool: str,
    description: str,
    defaults: str,
    body: Callable[[Run], None],
    arguments: Sequence[str] | None = None,
    shorthands: Sequence[str] = (),
) -> int:
    """Parses the command line, sets up the process, runs ``body``, and cleans up.

    TF32 stays off in the process, see :func:`use_exact_float32`.

    Args:
        tool: Name of the entry.
        description: Text for ``--help``.
        defaults: Name of the default file in ``training/configs/``.
        body: Function that runs the training.
        arguments: Command line; None uses ``sys.argv``.
        shorthands: Configuration keys with an option of their own, such as ``--model``.

    Returns:
        The exit code, see :func:`~anomaly_seg_ros.system.tool.run_tool`.
    """
    parser = argparse.ArgumentParser(prog=f"python -m training.{tool}", description=description)
    parser.add_argument(
        "--run-dir", type=folder_argument, required=True, help="resumed if it was begun before"
    )
    parser.add_argument("--data", type=folder_argument, default=data_folder())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for key in shorthands:
        parser.add_argument(f"--{key}", help=f"short for --set {key}=...")
    add_config_options(parser)
    parsed = parser.parse_args(arguments)

    def start() -> None:
        given = [f"{k}={v}" for k in shorthands if (v := getattr(parsed, k)) is not None]
        config = load_config(CONFIGS / defaults, parsed.config, [*parsed.set, *given], parsed.data)
        keep_freed_memory()
        if "seed" in config:
            torch.manual_seed(config["seed"])
        use_exact_float32()
        device = training_device(parsed.device)
        distributed = Distributed(device)
        try:
            body(Run(config, parsed.run_dir, parsed.data, device, distributed))
        finally:
            distributed.close()

    return run_tool(tool, start)

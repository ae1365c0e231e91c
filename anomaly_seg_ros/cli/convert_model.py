# SPDX-License-Identifier: Apache-2.0
"""Converts a file of weights to this package's safetensors: weights with all that belongs to them.

    convert_model cityscapes_best.pth --to safetensors
    convert_model mine.pth --to mine.safetensors --classes mine.yaml --inference-size 512 1024
    convert_model theirs.pth --to safetensors --wrap torchvision:deeplabv3_resnet50

Tensors keep their values bit for bit (float16 and bfloat16 widen exactly). What is dropped or
filled in is printed; a file with a missing, unexpected or mis-shaped tensor is refused.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from anomaly_seg_ros.checkpoints.fit import not_finite
from anomaly_seg_ros.checkpoints.formats import FORMATS
from anomaly_seg_ros.checkpoints.loading import resolve_model, save_model
from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.checkpoints.reading import Checkpoint, read_checkpoint
from anomaly_seg_ros.checkpoints.recognise import Recognised, recognise
from anomaly_seg_ros.checkpoints.wrapping import recognise_wrapped
from anomaly_seg_ros.cli.checkpoint_options import (
    add_num_classes,
    add_place_options,
    stated_taxonomy,
)
from anomaly_seg_ros.errors import OutputError, ParameterError
from anomaly_seg_ros.io.atomic import file_sha256
from anomaly_seg_ros.system.tool import run_tool
from anomaly_seg_ros.taxonomy import Taxonomy, load_taxonomy

TOOL = "convert_model"
_SUFFIX = ".safetensors"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = _parser().parse_args(argv)

    def body() -> None:
        source = resolve_model(arguments.model)
        target = output_path(source, arguments.to, arguments.force)
        taxonomy = stated_taxonomy(arguments.num_classes)
        if arguments.classes is not None:
            taxonomy = load_taxonomy(arguments.classes)
        checkpoint = read_checkpoint(source, arguments.key, arguments.prefix)
        if arguments.wrap is None:
            found = recognise(checkpoint, arguments.format_name, taxonomy)
        else:
            found = _wrapped(checkpoint, taxonomy, arguments)
        metadata = _described(found, checkpoint, arguments)
        network = found.load()
        _check_size(metadata.inference_size, network.size_multiple)
        save_model(target, network, metadata)
        _print_summary(source, target, found, metadata)

    return run_tool(TOOL, body)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=TOOL, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a file, or the name of a shipped model")
    parser.add_argument(
        "--to", required=True, metavar="OUT", help="safetensors (beside the input), or a path"
    )
    parser.add_argument(
        "--as", dest="format_name", choices=FORMATS, help="read it as this network"
    )
    add_place_options(parser)
    parser.add_argument("--name", help="of the model, for people, diagnostics and reports")
    classes = parser.add_mutually_exclusive_group()
    add_num_classes(classes)
    classes.add_argument(
        "--classes",
        metavar="TAXONOMY",
        help="names and colours in trainId order: a YAML file, or a name of config/taxonomies",
    )
    parser.add_argument("--inference-size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))
    wrapping = parser.add_argument_group("a network of another package")
    wrapping.add_argument(
        "--wrap", metavar="FACTORY", help="torchvision:BUILDER, smp:CLASS or a registered name"
    )
    wrapping.add_argument(
        "--wrap-arguments",
        type=json.loads,
        default={},
        metavar="JSON",
        help='of the wrapper: {"factory_arguments": {...}, "pre_logits": "LAYER", ...}',
    )
    for constant in ("--mean", "--std"):
        parser.add_argument(
            constant, type=float, nargs=3, metavar=("R", "G", "B"), help="of inputs in [0, 1]"
        )
    parser.add_argument("--force", action="store_true", help="overwrite the output")
    return parser


def output_path(source: Path, to: str, force: bool) -> Path:
    """Where the converted model goes.

    Args:
        source: The input.
        to: ``safetensors``: beside the input under that suffix; otherwise a path.
        force: Whether an existing file may be replaced.

    Raises:
        OutputError: Another suffix, the input itself, or an existing file.
    """
    target = source.with_suffix(_SUFFIX) if to == "safetensors" else Path(to).expanduser()
    if target.suffix != _SUFFIX:
        raise OutputError(f"--to {to}: expected 'safetensors' or a path that ends in {_SUFFIX}")
    if target.exists() and not force:
        raise OutputError(f"{target} exists; --force overwrites it")
    if target.exists() and target.samefile(source):
        raise OutputError(f"{target} is the input itself; choose another --to")
    return target


def _wrapped(
    checkpoint: Checkpoint, taxonomy: Taxonomy | None, arguments: argparse.Namespace
) -> Recognised:
    if arguments.format_name is not None:
        raise ParameterError("--wrap and --as exclude each other")
    try:
        found = recognise_wrapped(
            checkpoint, arguments.wrap, taxonomy or load_taxonomy(), arguments.wrap_arguments
        )
    except TypeError as error:
        raise ParameterError(f"--wrap-arguments {arguments.wrap_arguments}: {error}") from error
    if taxonomy is None:
        guess = "the 19 classes of Cityscapes, a guess; --classes or --num-classes says otherwise"
        found = replace(found, remarks=(*found.remarks, guess))
    return found


def _described(
    found: Recognised, checkpoint: Checkpoint, arguments: argparse.Namespace
) -> ModelMetadata:
    """The metadata of the new file."""
    for option in ("mean", "std"):
        values = getattr(arguments, option)
        if values is not None and not all(map(math.isfinite, values)):
            raise ParameterError(f"--{option} {values}: not finite")
    if arguments.std is not None and min(arguments.std) <= 0:
        raise ParameterError(f"--std {arguments.std}: must be positive")
    changes: dict[str, Any] = {"provenance": _provenance(found, checkpoint)}
    for field in ("name", "mean", "std", "inference_size"):
        value = getattr(arguments, field)
        if value is not None:
            changes[field] = value if field == "name" else tuple(value)
    rescaled = {"mean", "std"} & changes.keys()
    if rescaled and found.metadata.calibration:
        # Thresholds were measured with the old input scaling.
        changes |= {"calibration": {}, "statistics": None}
    head = found.metadata.arguments.get("outlier_head")
    if rescaled and isinstance(head, Mapping) and head.get("context"):
        # A branch's context trunk makes its own image of the network's.
        head = {**head, **{field: list(changes[field]) for field in rescaled}}
        changes["arguments"] = {**found.metadata.arguments, "outlier_head": head}
    return replace(found.metadata, **changes)


def _provenance(found: Recognised, checkpoint: Checkpoint) -> dict[str, Any]:
    """Where the new file comes from."""
    source = {
        "file": checkpoint.path.name,
        "sha256": file_sha256(checkpoint.path),
        "release": found.release,
        "recorded": checkpoint.record,
        "notes": [*found.remarks, *found.changes],
    }
    return {
        **found.metadata.provenance,
        "converted_from": {key: value for key, value in source.items() if value},
    }


def _check_size(size: tuple[int, int], multiple: int) -> None:
    if min(size) <= 0 or any(side % multiple for side in size):
        raise ParameterError(
            f"--inference-size {size[0]} {size[1]}: height and width must be positive multiples "
            f"of {multiple}"
        )


def _print_summary(source: Path, target: Path, found: Recognised, metadata: ModelMetadata) -> None:
    print(f"{source}: {metadata.architecture}, release: {found.release}")
    for note in (*found.remarks, *found.changes):
        print(f"note: {note}")
    if broken := not_finite(found.tensors):
        print(f"note: NaN or infinite values in {len(broken)} tensors: {', '.join(broken[:3])}")
    print(f"{target}: {len(found.tensors)} tensors, nothing missing or left over")
    if not metadata.calibration:
        # The labels that training.calibrate measures on have these classes alone.
        if metadata.classes == load_taxonomy().classes:
            hint = f": python -m training.calibrate --model {target} --out CALIBRATED{_SUFFIX}"
        else:
            hint = "; training.calibrate takes models with the Cityscapes classes only"
        print(f"not calibrated, so its thresholds mean nothing yet{hint}")


if __name__ == "__main__":
    sys.exit(main())

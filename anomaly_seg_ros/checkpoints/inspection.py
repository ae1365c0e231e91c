# SPDX-License-Identifier: Apache-2.0
"""Describes a file of weights, for people and for programs."""

from __future__ import annotations

from typing import Any

import yaml

from anomaly_seg_ros.checkpoints.fit import not_finite
from anomaly_seg_ros.checkpoints.metadata import METADATA_KEY
from anomaly_seg_ros.checkpoints.reading import Checkpoint
from anomaly_seg_ros.checkpoints.recognise import Recognised, nearest, recognise
from anomaly_seg_ros.errors import CheckpointError
from anomaly_seg_ros.io.atomic import file_sha256
from anomaly_seg_ros.models.outlier_branch import OutlierBranch
from anomaly_seg_ros.taxonomy import Taxonomy


def inspect_checkpoint(
    checkpoint: Checkpoint, format_name: str | None = None, taxonomy: Taxonomy | None = None
) -> dict[str, Any]:
    """Describes a file, even one that cannot be loaded.

    Args:
        checkpoint: See :func:`~anomaly_seg_ros.checkpoints.reading.read_checkpoint`.
        format_name: The format to compare with; None: what the file seems to be, else the nearest.
        taxonomy: The classes, where neither the file nor the format knows them.

    Returns:
        Values for JSON. ``error`` is None if the file can be loaded; otherwise ``missing``,
        ``unexpected`` and ``misshaped`` say, in full, why not.

    Raises:
        CheckpointError: A file of this package with metadata that no network can be built from.
    """
    error = None
    try:
        found = recognise(checkpoint, format_name, taxonomy)
        if found.misfit:
            wanted = found.metadata.architecture
            error = f"{checkpoint.path} does not fit {wanted}: {found.why_not()}"
    except CheckpointError as refusal:
        if METADATA_KEY in checkpoint.header:
            raise  # it says what it is, so no other format is near
        error = str(refusal)
        found = nearest(checkpoint)
    described = {**_of_file(checkpoint), **_of_network(found), "error": error}
    if found.prefix:
        described["prefixes"].append(found.prefix)
    return described


def _of_file(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "file": str(checkpoint.path),
        "sha256": file_sha256(checkpoint.path),
        "bytes": checkpoint.path.stat().st_size,
        "container": checkpoint.container,
        "dtypes": checkpoint.dtypes,
        "place": list(checkpoint.place),
        "prefixes": list(checkpoint.prefixes),
        "optimizer": checkpoint.has_optimizer,
        "epoch": checkpoint.epoch,
        "mean_iou": checkpoint.mean_iou,
        "record": checkpoint.record,
    }


def _of_network(found: Recognised) -> dict[str, Any]:
    metadata, network = found.metadata, found.network
    heads = ["classes"]
    if network.outlier_head is not None:
        is_branch = isinstance(network.outlier_head, OutlierBranch)
        heads.append("outlier branch" if is_branch else "outlier head")
    heads += [name for name in ("abstention", "auxiliary") if metadata.arguments.get(name)]
    remarks = list(found.remarks)
    if broken := not_finite(found.tensors):
        remarks.append(f"NaN or infinite values in {len(broken)} tensors: {', '.join(broken[:3])}")
    return {
        "name": metadata.name,
        "release": found.release,
        "architecture": metadata.architecture,
        "arguments": metadata.arguments,
        "heads": heads,
        "tensors": len(network.state_dict()),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "output_stride": network.output_stride,
        "classes": list(metadata.classes),
        "mean": list(metadata.mean),
        "std": list(metadata.std),
        "inference_size": list(metadata.inference_size),
        "default_score": metadata.default_score,
        "calibration": {
            name: {"threshold": score.threshold, "scale": score.scale}
            for name, score in metadata.calibration.items()
        },
        "provenance": metadata.provenance,
        "remarks": remarks,
        "changes": list(found.changes),
        "missing": list(found.misfit.missing),
        "unexpected": list(found.misfit.unexpected),
        "misshaped": list(found.misfit.misshaped),
    }


def as_text(report: dict[str, Any]) -> str:
    """A report as text for people, without its error."""
    dtypes = ", ".join(f"{count} {name}" for name, count in report["dtypes"].items())
    lines = [
        f"{report['name']}: {report['file']}",
        f"file: {report['container']}, {report['bytes'] / 1e6:.1f} MB, {dtypes}",
        f"  sha256 {report['sha256']}",
        *_whereabouts(report),
        f"release: {report['release']}",
        f"network: {report['architecture']} {report['arguments']}",
        f"  {report['tensors']} tensors, {report['parameters'] / 1e6:.2f} M parameters, "
        f"output stride {report['output_stride']}, heads: {', '.join(report['heads'])}",
        f"classes: {len(report['classes'])} ({', '.join(report['classes'])})",
        f"input: {' x '.join(map(str, report['inference_size']))} RGB, "
        f"mean {tuple(report['mean'])}, std {tuple(report['std'])}",
        f"default score: {report['default_score']}",
        *(
            f"  {name:16s} threshold {score['threshold']:10.4f}  scale {score['scale']:8.4f}"
            for name, score in report["calibration"].items()
        ),
    ]
    if objects := report.get("object_rates"):
        lines.append(f"objects by {objects['score']}: score, false alarms per frame, found")
        rows = zip(*(objects[k] for k in ("min_scores", "false_alarms", "found")), strict=True)
        lines += ["  {:.4f}  {:7.3f}  {:6.1%}".format(*row) for row in rows]
    if not report["calibration"]:
        lines.append("  not calibrated: python -m training.calibrate --model FILE --out NEW")
    if report["provenance"]:
        lines.append(
            yaml.safe_dump({"provenance": report["provenance"]}, sort_keys=False).rstrip()
        )
    lines += [f"note: {note}" for note in (*report["remarks"], *report["changes"])]
    for kind in ("missing", "unexpected", "misshaped"):
        lines.append(f"{kind}: {len(report[kind])}")
        lines += [f"  {key}" for key in report[kind]]
    return "\n".join(lines)


def _whereabouts(report: dict[str, Any]) -> list[str]:
    """Where in the file the weights lie, and what was recorded with them."""
    lines = []
    if report["place"] or report["prefixes"] or report["optimizer"]:
        place = ".".join(report["place"]) or "top level"
        prefixes = f", prefix {''.join(report['prefixes'])}" if report["prefixes"] else ""
        optimizer = ", beside the state of a training" if report["optimizer"] else ""
        lines.append(f"  weights at {place}{prefixes}{optimizer}")
    if report["record"]:
        values = ", ".join(f"{key} {value}" for key, value in report["record"].items())
        lines.append(f"recorded: {values}")
    return lines

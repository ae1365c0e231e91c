# SPDX-License-Identifier: Apache-2.0
"""Writes a network as an ONNX file or a torch.export program, for any image size.

    deployment = Deployment(*load_model("default"))
    export_onnx(deployment, Path("default.onnx"))

A file is compared with the network before it gets its name, so wrong files never appear.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from anomaly_seg_ros.errors import ExportError, OutputError, ParameterError, first_line
from anomaly_seg_ros.export import DEFAULT_OPSET
from anomaly_seg_ros.export.comparison import (
    TOLERANCE,
    Comparison,
    Runner,
    compare,
    random_image,
    traced_size,
)
from anomaly_seg_ros.export.deployment import Deployment

INPUT_NAME = "image"
# Packages for writing and running ONNX files.
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# Bounds of height and width, in pixels.
_SMALLEST, _LARGEST = 64, 16384
_LARGEST_BATCH = 64


def capture(deployment: Deployment) -> ExportedProgram:
    """Traces a network with free batch size, height and width.

    Args:
        deployment: Not modified; traced with uint8 images.

    Returns:
        A program for (N, 3, H, W) with N in 1..64, and H and W multiples of the network's
        ``size_multiple`` from 64 to 16384.

    Raises:
        ExportError: The forward pass depends on the size in a way that cannot be traced.
    """
    multiple = deployment.network.size_multiple
    # A batch of 2: torch.export takes a dimension of 1 for a constant.
    example = random_image(traced_size(multiple), batch=2)
    rows, columns = (
        Dim(name, min=-(-_SMALLEST // multiple), max=_LARGEST // multiple)
        for name in ("rows", "columns")
    )
    batch = Dim("batch", min=1, max=_LARGEST_BATCH)
    # torch.export does not accept "1 * dimension".
    free = (rows, columns) if multiple == 1 else (multiple * rows, multiple * columns)
    shapes = {INPUT_NAME: {0: batch, 2: free[0], 3: free[1]}}
    try:
        with torch.no_grad():
            return torch.export.export(deployment, (example,), dynamic_shapes=shapes, strict=False)
    except (RuntimeError, ValueError) as error:
        raise ExportError(
            f"model {deployment.metadata.name!r}: torch.export cannot trace it with free height "
            f"and width: {first_line(error)}"
        ) from error


def export_program(deployment: Deployment, path: Path, tolerance: float = TOLERANCE) -> Comparison:
    """Writes a ``.pt2`` file for ``torch.export.load``.

    The texts of :meth:`Deployment.description` are its extra files, under their keys.

    Args:
        deployment: The module to write.
        path: The file; an existing one is replaced.
        tolerance: Largest allowed difference from the network's outputs.

    Raises:
        ExportError: The network cannot be traced, or the file gives other outputs.
        OutputError: The file cannot be written.
    """
    with _finished_file(path) as partial:
        program = capture(deployment)
        torch.export.save(program, partial, extra_files=deployment.description())
        comparison = compare(program_runner(partial), deployment)
        comparison.require(tolerance, str(path))
    return comparison


def export_onnx(
    deployment: Deployment,
    path: Path,
    opset: int = DEFAULT_OPSET,
    tolerance: float = TOLERANCE,
) -> Comparison:
    """Writes an ONNX file with its weights inside.

    The texts of :meth:`Deployment.description` are its ``metadata_props``.

    Args:
        deployment: The module to write.
        path: The file; an existing one is replaced.
        opset: Version of ONNX's operators, 18 or later.
        tolerance: Largest allowed difference from the network's outputs.

    Raises:
        ExportError: A package is missing, the network cannot be expressed in ONNX, or the file
            gives other outputs.
        OutputError: The file cannot be written.
        ParameterError: The opset is too old.
    """
    require_onnx()
    if opset < DEFAULT_OPSET:
        raise ParameterError(f"opset {opset}: the oldest that can be written is {DEFAULT_OPSET}")
    with _finished_file(path) as partial:
        program = _to_onnx(capture(deployment), deployment, opset)
        program.model.metadata_props.update(deployment.description())
        program.save(partial, external_data=False)
        comparison = compare(onnx_runner(partial), deployment)
        comparison.require(tolerance, str(path))
    return comparison


def require_onnx() -> None:
    """Raises an ExportError that says what to install if a package for ONNX is missing."""
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f"ONNX needs {', '.join(missing)}: pip install -r requirements/export.txt "
            f"(or: pip install {' '.join(missing)})"
        )


@contextmanager
def silent_onnx_exporter() -> Iterator[None]:
    """Suppresses a warning for each of torchvision's operators that cannot be registered."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def program_runner(path: Path) -> Runner:
    """Loads a ``.pt2`` file; returns the function that runs it."""
    return torch.export.load(path).module()


def onnx_runner(path: Path) -> Runner:
    """Loads an ONNX file into ONNX Runtime on the CPU; returns the function that runs it.

    That function raises ExportError when ONNX Runtime fails.
    """
    import onnxruntime

    failures = onnxruntime.capi.onnxruntime_pybind11_state
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(image: Tensor) -> dict[str, Tensor]:
        try:
            arrays = session.run(names, {INPUT_NAME: image.numpy()})
        except (failures.Fail, failures.InvalidArgument, failures.RuntimeException) as error:
            raise ExportError(f"ONNX Runtime: {first_line(error)}") from error
        return {name: torch.from_numpy(a) for name, a in zip(names, arrays, strict=True)}

    return run


def _to_onnx(
    program: ExportedProgram, deployment: Deployment, opset: int
) -> torch.onnx.ONNXProgram:
    try:
        with silent_onnx_exporter():
            converted: Any = torch.onnx.export(
                program,
                dynamo=True,
                input_names=[INPUT_NAME],
                output_names=list(deployment.output_names),
                opset_version=opset,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(
            f"model {deployment.metadata.name!r} cannot be written as ONNX: {first_line(error)}"
        ) from error
    written = converted.model.opset_imports.get("")
    if written != opset:
        raise ExportError(f"opset {opset}: this network can only be written with {written}")
    return converted


@contextmanager
def _finished_file(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes ``path`` when the block ends without an error."""
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: no such folder")
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)

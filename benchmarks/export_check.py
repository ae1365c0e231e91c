# SPDX-License-Identifier: Apache-2.0
"""Every network through torch.compile, torch.export and ONNX Runtime: same outputs at any size?

    python -m benchmarks.export_check [--only erfnet resnet101]

Real width, random weights, small images. Each network is traced at one size and run at two others;
the column is the largest absolute difference of logits, outlier logits and hybrid score from the
plain network's. A compiled network that compiles again for a new size has failed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from anomaly_seg_ros.errors import CheckpointError, ExportError, first_line
from anomaly_seg_ros.export.comparison import (
    TOLERANCE,
    Comparison,
    compare,
    random_image,
    traced_size,
)
from anomaly_seg_ros.export.deployment import Deployment
from anomaly_seg_ros.export.files import export_onnx, export_program
from benchmarks.variants import (
    FOREIGN_VARIANTS,
    VARIANTS,
    build_variant,
    settle,
    variant_metadata,
)

_SEED = 0
_NAMES = (*VARIANTS, *FOREIGN_VARIANTS)


def deployment_of(name: str) -> Deployment:
    """A network with outlier head and hybrid score, ready for export."""
    torch.manual_seed(_SEED)
    network = settle(build_variant(name, outlier_head=True))
    return Deployment(network, variant_metadata(name, {"outlier_head": True}, "dense_hybrid"))


def check_compile(deployment: Deployment) -> Comparison:
    """torch.compile(dynamic=True) at sizes that it has not seen.

    It may compile again where torch takes another convolution for inputs of few numbers, as some
    of these small images are.

    Raises:
        ExportError: It differs or cannot be compiled.
    """
    torch.compiler.reset()
    compiled = torch.compile(deployment, dynamic=True)
    try:
        with torch.no_grad():
            compiled(random_image(traced_size(deployment.network.size_multiple)))
        comparison = compare(compiled, deployment)
    except RuntimeError as error:
        raise ExportError(f"torch.compile: {first_line(error)}") from error
    comparison.require(TOLERANCE, "torch.compile")
    return comparison


def check_program(deployment: Deployment) -> Comparison:
    """torch.export, written and read back."""
    with tempfile.TemporaryDirectory() as folder:
        return export_program(deployment, Path(folder) / "network.pt2")


def check_onnx(deployment: Deployment) -> Comparison:
    """ONNX, written and run by ONNX Runtime."""
    with tempfile.TemporaryDirectory() as folder:
        return export_onnx(deployment, Path(folder) / "network.onnx")


CHECKS: dict[str, Callable[[Deployment], Comparison]] = {
    "compile": check_compile,
    "export": check_program,
    "onnx": check_onnx,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; returns 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=_NAMES, default=_NAMES)
    parser.add_argument("--checks", nargs="+", choices=CHECKS, default=tuple(CHECKS))
    arguments = parser.parse_args(argv)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, tolerance {TOLERANCE}")
    print("network              way      traced   checked at        |logit|  difference  seconds")
    failures = 0
    for name in arguments.only:
        try:
            deployment = deployment_of(name)
        except CheckpointError as error:
            print(f"{name:20s} skipped: {error}", flush=True)
            continue
        height, width = traced_size(deployment.network.size_multiple)
        for way in arguments.checks:
            print(f"{name}: {way} ...", file=sys.stderr)
            began = time.perf_counter()
            try:
                comparison = CHECKS[way](deployment)
            except ExportError as error:
                failures += 1
                print(f"{name:20s} {way:8s} FAILED: {error}", flush=True)
                continue
            sizes = " ".join(f"{h}x{w}" for h, w in comparison.sizes)
            print(
                f"{name:20s} {way:8s} {f'{height}x{width}':8s} {sizes:17s} "
                f"{comparison.largest_logit:7.2f} {comparison.worst:11.1e} "
                f"{time.perf_counter() - began:8.1f}",
                flush=True,
            )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Writes a model for other runtimes: ONNX, or a program of torch.export, for any image size.

The file takes raw RGB (uint8) and returns logits and an anomaly score. It is compared with the
network at two sizes before it gets its name.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.export import DEFAULT_OPSET
from anomaly_seg_ros.scores import SCORES
from anomaly_seg_ros.system.tool import run_tool

TOOL = "export_model"
_FORMATS = ("onnx", "pt2")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog=TOOL, description=__doc__)
    parser.add_argument("model", help="a name, such as default, or a file")
    parser.add_argument("--to", required=True, choices=_FORMATS)
    parser.add_argument("--out", required=True, type=Path, help="the file to write")
    parser.add_argument(
        "--score",
        default="auto",
        choices=("auto", *SCORES),
        help="computed in the file (default: the model's own)",
    )
    parser.add_argument(
        "--opset", type=int, help=f"of ONNX's operators (default: {DEFAULT_OPSET})"
    )
    arguments = parser.parse_args(argv)

    def body() -> None:
        # Not above: --help waits for no torch.
        from anomaly_seg_ros.checkpoints.loading import load_model
        from anomaly_seg_ros.export.comparison import TOLERANCE
        from anomaly_seg_ros.export.deployment import Deployment
        from anomaly_seg_ros.export.files import export_onnx, export_program

        _check(arguments)
        deployment = Deployment(*load_model(arguments.model), arguments.score)
        began = time.perf_counter()
        print("tracing, about a minute for a large network ...", file=sys.stderr)
        if arguments.to == "onnx":
            comparison = export_onnx(deployment, arguments.out, arguments.opset or DEFAULT_OPSET)
        else:
            comparison = export_program(deployment, arguments.out)
        sizes = ", ".join(f"{height} x {width}" for height, width in comparison.sizes)
        print(
            f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB in "
            f"{time.perf_counter() - began:.0f} s\n"
            f"input: image (N, 3, H, W) uint8 RGB, H and W multiples of "
            f"{deployment.network.size_multiple}\n"
            f"outputs: {', '.join(deployment.output_names)} ({deployment.score}), at a stride of "
            f"{deployment.network.output_stride}\n"
            f"largest difference at {sizes}: {comparison.worst:.2e} (allowed: {TOLERANCE:.0e})"
        )

    return run_tool(TOOL, body)


def _check(arguments: argparse.Namespace) -> None:
    """Refuses arguments that would otherwise fail only after minutes."""
    if arguments.out.suffix != f".{arguments.to}":
        raise ParameterError(f"--out {arguments.out}: expected a name in .{arguments.to}")
    if arguments.to == "onnx":
        from anomaly_seg_ros.export.files import require_onnx

        require_onnx()
    elif arguments.opset is not None:
        raise ParameterError("--opset is for --to onnx")


if __name__ == "__main__":
    sys.exit(main())

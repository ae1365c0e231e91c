# SPDX-License-Identifier: Apache-2.0
"""Measures the online path and stores the figures as JSON.

    python -m benchmarks.online                     about five minutes on two CPU cores
    python -m benchmarks.online --profile full      every backend; on a GPU the heavy networks, too
    python -m benchmarks.online --models default --network-sizes 512x1024 --backends torch
    python -m benchmarks.online --compare out/benchmark/before.json

In every case the bare network, Segmenter.predict, our node, our node with eager torch, a naive
node and an echo take turns of a few frames, because the machine may be noisy: read the ratios.
Sizes are height x width.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

# Idle OpenMP threads that spin would take the cores from the process whose turn it is.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import rclpy

from anomaly_seg_ros.errors import AnomalySegError
from anomaly_seg_ros.inference.devices import select_device
from anomaly_seg_ros.inference.options import AUTO, BACKENDS, PRECISIONS
from anomaly_seg_ros.ros.discovery import check_discovery
from anomaly_seg_ros.ros.transport import use_profile
from anomaly_seg_ros.system.tool import run_tool
from benchmarks import machine
from benchmarks.inspect_networks import DENSE_HYBRID_NETWORKS, time_head_and_score
from benchmarks.online import cases
from benchmarks.online.measure import Options, run_case
from benchmarks.online.report_tables import FORMAT, compare, read_report, report_text


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; 1 if a comparison found regressions, too."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = _parser().parse_args(words)
    regressions: list[str] = []

    def body() -> None:
        old = read_report(arguments.compare) if arguments.compare else None
        report = _new_report(arguments, words)
        path = arguments.out or Path(f"out/benchmark/{datetime.now():%Y%m%d_%H%M%S}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        _measure(arguments, report, path)
        print(report_text(report))
        print(f"\nstored in {path}")
        if old is not None:
            verdict = compare(old, report, arguments.tolerance)
            print(f"\n{verdict.text()}")
            regressions.extend(verdict.regressions)

    return run_tool("benchmark", body) or int(bool(regressions))


def _new_report(arguments: argparse.Namespace, words: list[str]) -> dict[str, Any]:
    """A report without figures; sets up the environment that it describes."""
    if arguments.transport == "profile":  # for this process and those that it starts
        use_profile()
    else:  # the detector would take the profile by itself
        os.environ.setdefault("FASTDDS_BUILTIN_TRANSPORTS", "DEFAULT")
    return {
        "format": FORMAT,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(["python -m benchmarks.online", *words]),
        "commit": machine.commit(),
        "machine": machine.describe(select_device(arguments.device)),
        "load_average": os.getloadavg()[0],
        "settings": vars(_options(arguments)) | {"transport": arguments.transport},
        "frames": "",
        "floors": {"copy_ms": {}},
        "cases": [],
        "skipped": {},
    }


def _measure(arguments: argparse.Namespace, report: dict[str, Any], path: Path) -> None:
    """Fills the report, and stores it after every case: what an interrupted run has stays.

    Raises:
        AnomalySegError: No case could be measured.
    """

    def store() -> None:
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    check_discovery(os.environ)
    rclpy.init()
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for case in _plan(arguments):
                images, report["frames"] = cases.load_frames(case.frame_size, arguments.images)
                size = cases.size_text(case.frame_size)
                report["floors"]["copy_ms"][size] = machine.copy_ms(case.frame_size)
                model = cases.model_file(case.model, folder)
                try:
                    entry = run_case(case, model, images, _options(arguments), folder)
                except AnomalySegError as error:  # a backend that is not installed, say
                    report["skipped"][case.key] = str(error)
                    print(f"skipped {case.key}: {error}", file=sys.stderr)
                else:
                    report["cases"].append(entry)
                store()
    finally:
        rclpy.try_shutdown()
    if not report["cases"]:
        raise AnomalySegError("no case could be measured")
    if arguments.profile == "full":
        precision = arguments.precision or "auto"
        report["head_and_score"] = [
            time_head_and_score(network, cases.FRAME_SIZE, arguments.device, precision)
            for network in DENSE_HYBRID_NETWORKS
        ]
        store()


def _options(arguments: argparse.Namespace) -> Options:
    return Options(**{name: getattr(arguments, name) for name in Options.__dataclass_fields__})


def _plan(arguments: argparse.Namespace) -> tuple[cases.Case, ...]:
    """The profile's cases, or every combination of what is given."""
    names = ("models", "backends", "network_sizes", "frame_sizes", "precision")
    if any(getattr(arguments, name) for name in names):
        return cases.chosen(
            arguments.models or ["default"],
            arguments.backends or [AUTO],
            arguments.precision or "auto",
            [cases.parse_size(text) for text in arguments.network_sizes or ()] or [None],
            [cases.parse_size(text) for text in arguments.frame_sizes or ()] or [cases.FRAME_SIZE],
        )
    if arguments.profile == "full":
        on_gpu = select_device(arguments.device).type == "cuda"
        return cases.full([name for name in BACKENDS if name != AUTO], heavy=on_gpu)
    return cases.QUICK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--profile", choices=("quick", "full"), default="quick")
    add("--models", nargs="+", metavar="NAME", help="instead of the profile's")
    add("--backends", nargs="+", choices=BACKENDS, help="default: auto")
    add("--precision", choices=PRECISIONS)
    add("--network-sizes", nargs="+", metavar="HxW", help="default: the model's")
    add("--frame-sizes", nargs="+", metavar="HxW", help="default: 1024x2048")
    add("--frames", type=int, default=Options.frames, help="counted frames of each contender")
    add("--seconds", type=float, default=Options.seconds, help="a case, without its start")
    add("--load-seconds", type=float, default=Options.load_seconds, help="of overload; 0 = none")
    add("--images", type=int, default=4, help="different frames to send")
    add("--device", default=Options.device)
    add("--num-threads", type=int, default=Options.num_threads)
    add(
        "--transport",
        choices=("profile", "default"),
        default="profile",
        help="the package's Fast DDS profile, as in the launch file, or what the environment says",
    )
    add("--out", type=Path, help="default: out/benchmark/<time>.json")
    add("--compare", type=Path, metavar="OLD.json")
    add("--tolerance", type=float, default=0.15, help="of --compare: 0.15 = 15 %% slower")
    return parser


if __name__ == "__main__":
    sys.exit(main())

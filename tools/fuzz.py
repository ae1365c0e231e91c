#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fuzzes everything that reads files and messages, guided by coverage (atheris, libFuzzer).

A reader fails if an input makes it raise anything but this package's errors, run, write or open
something forbidden, take more than 4 GB, or hang. The input is kept and the next target begins.
The exit code is 1 if a reader failed::

    python -m tools.fuzz decoder --seconds 60
    python -m tools.fuzz mcap --reproduce out/fuzz/mcap/failures/crash-...
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.metadata
import io
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tools.fuzzing.fuzzer import Outcome
    from tools.fuzzing.target import Target

MARKS = "<!-- fuzz:begin -->", "<!-- fuzz:end -->"  # of the table in a document
_PACKAGES = ("atheris", "opencv-python-headless", "torch", "safetensors", "rosbags", "PyYAML")
# Python code that parses files; atheris does not see C code. Whatever these import is
# instrumented, too, unless it was imported before.
_INSTRUMENTED = (
    *("anomaly_seg_ros", "training.engine.config", "rosbags.rosbag2", "rosbags.serde", "yaml"),
)
_NOT_INSTRUMENTED = ("numpy", "torch", "rosbags.typesys")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    arguments = _arguments(argv)
    try:
        import atheris
    except ImportError:
        print("fuzz: error: atheris is not installed (requirements/dev.txt)", file=sys.stderr)
        return 2
    for name in _NOT_INSTRUMENTED:
        importlib.import_module(name)
    quiet = contextlib.redirect_stderr(io.StringIO())  # it names each module
    with quiet, atheris.instrument_imports(include=list(_INSTRUMENTED)):
        from tools.fuzzing.registry import AREAS, TARGETS
    if arguments.list:
        for target in TARGETS.values():
            print(f"{target.area:14s} {target.name:18s} {target.reads}")
        return 0
    if arguments.reproduce:
        return _reproduce(TARGETS, arguments.targets, arguments.reproduce)
    unknown = [name for name in arguments.targets if name not in (*TARGETS, *AREAS)]
    if unknown:
        known = ", ".join((*AREAS, *TARGETS))
        print(f"fuzz: error: no target {unknown[0]!r}; known: {known}", file=sys.stderr)
        return 2
    chosen = [
        target
        for target in TARGETS.values()
        if not arguments.targets or {target.name, target.area} & set(arguments.targets)
    ]
    outcomes = _fuzz(chosen, arguments)
    report = {**_machine(), "targets": [dataclasses.asdict(outcome) for outcome in outcomes]}
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if arguments.document:
        from anomaly_seg_ros.io.marked_text import write_between
        from anomaly_seg_ros.system.tool import run_tool

        text = f"\n{table(report)}"
        if run_tool("fuzz", lambda: write_between(arguments.document, *MARKS, text)):
            return 1
    return int(any(outcome.failure for outcome in outcomes))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("targets", nargs="*", help="names or areas, see --list; all by default")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (%(default)s)")
    parser.add_argument("--runs", type=int, help="inputs for each target, instead of --seconds")
    parser.add_argument(
        "--out", type=Path, default=Path("out/fuzz"), help="logs, inputs, failures (%(default)s)"
    )
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument(
        "--document", type=Path, help=f"put the table between {' and '.join(MARKS)}"
    )
    parser.add_argument("--list", action="store_true", help="print the targets")
    parser.add_argument(
        "--reproduce", type=Path, metavar="FILE", help="try one input on one target"
    )
    return parser.parse_args(argv)


def _fuzz(targets: Sequence[Target], arguments: argparse.Namespace) -> list[Outcome]:
    from tools.fuzzing.fuzzer import fuzz

    limit = f"-runs={arguments.runs}" if arguments.runs else f"-max_total_time={arguments.seconds}"
    outcomes = []
    for target in targets:
        outcome = fuzz(target, arguments.out.absolute() / target.name, [limit])
        outcomes.append(outcome)
        print(
            f"{target.name:18s} {outcome.executions:9d} inputs in {outcome.seconds:6.1f} s, "
            f"{outcome.branches:5d} branches: {outcome.failure or 'held'}",
            flush=True,
        )
        if outcome.input_file:
            print(f"  {outcome.input_file}", flush=True)
    return outcomes


def _reproduce(targets: dict[str, Target], names: Sequence[str], file: Path) -> int:
    from tools.fuzzing.target import Attack, scratch_folder

    if len(names) != 1 or names[0] not in targets:
        print("fuzz: error: --reproduce needs one target's name", file=sys.stderr)
        return 2
    with scratch_folder() as folder:
        accepted = Attack(targets[names[0]], folder)(file.read_bytes())
    print("accepted" if accepted else "refused with one of our errors")
    return 0


def _machine() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def table(report: dict[str, Any]) -> str:
    """A report as Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in report["packages"].items())
    rows = [
        f"| {row['area']} | {row['reads']} | {row['executions']:,} | {row['seconds']:.0f} "
        f"| {row['branches']:,} | {row['failure'] or 'none'} |"
        for row in report["targets"]
    ]
    total = sum(row["executions"] for row in report["targets"])
    failures = sum(row["failure"] is not None for row in report["targets"])
    return "\n".join(
        (
            "| area | read | inputs | seconds | branches reached | failures |",
            "| --- | --- | ---: | ---: | ---: | --- |",
            *rows,
            "",
            f"{total:,} inputs for {len(rows)} targets, {failures} failures. CPython "
            f"{report['python']} on {report['cores']} cores; {versions}.",
            "",
        )
    )


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Evaluates models, or scores in files, on data sets and bags with all metrics.

Writes OUT/benchmark.json, tables and a report; an interrupted run resumes where it stopped. Under
torchrun many processes share the frames:
torchrun --nproc-per-node 2 -m anomaly_seg_ros.cli.evaluate ...
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from anomaly_seg_ros.cli.network_options import add_segmenter_options, segmenter_options
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.evaluation.dumps import KINDS, check_kind
from anomaly_seg_ros.evaluation.plan import (
    ALL,
    AUTO,
    COMPONENTS,
    IN_PROCESS,
    VIAS,
    NamedPath,
    Plan,
    parse_data,
    parse_named,
)
from anomaly_seg_ros.inference.options import SegmenterOptions
from anomaly_seg_ros.system.tool import run_tool

TOOL = "evaluate"
_MIB = 1 << 20


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = _parser().parse_args(argv)

    def body() -> None:
        # Not above: --help waits for no torch.
        from anomaly_seg_ros.evaluation.pictures import read_pictures
        from anomaly_seg_ros.evaluation.report import write_benchmark_report
        from anomaly_seg_ros.evaluation.results import FILE_NAME
        from anomaly_seg_ros.evaluation.run import run_plan
        from anomaly_seg_ros.evaluation.snapshots import torchrun_ranks
        from anomaly_seg_ros.evaluation.tables import format_text, write_tables

        plan = _plan(arguments)
        # A job that is terminated saves its state, as with Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with torchrun_ranks() as ranks:
            ranks.set_threads(arguments.threads)
            benchmark = run_plan(plan, ranks)
        if ranks.is_first:
            tables = write_tables(benchmark, plan.out)
            report = write_benchmark_report(
                benchmark, plan.out, read_pictures(benchmark, plan.out)
            )
            print(format_text(benchmark))
            print(f"\nwritten: {', '.join(map(str, (plan.out / FILE_NAME, *tables, report)))}")

    return run_tool(TOOL, body)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=TOOL, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_argument_group("what")
    what.add_argument(
        "--data",
        nargs="+",
        required=True,
        metavar="[LABEL=][NAME:]FOLDER[?OPTION=VALUE&...]",
        help="data sets or bags; NAME is a data set of docs/datasets.md, auto (default) or bag; "
        "a quoted * in the folder's name pools all that fit",
    )
    what.add_argument("--out", type=Path, required=True, help="folder for the results")
    what.add_argument(
        "--models",
        nargs="+",
        default=[],
        metavar="[NAME=]MODEL",
        help="names (docs/models.md) or weights files (default: default)",
    )
    what.add_argument(
        "--dumped",
        nargs="+",
        default=[],
        metavar="[NAME=]FOLDER",
        help="scores from files: FOLDER[/LABEL]/FRAME.npy, .hdf5 or .h5",
    )
    what.add_argument("--name", help="name of the model whose scores --dumped holds")
    what.add_argument("--scores", nargs="+", default=[ALL], help="names, or all (default)")
    what.add_argument("--limit", type=int, help="use only the first LIMIT frames of each data set")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--via", default=IN_PROCESS, choices=VIAS, help="node: also through a node, in lock-step"
    )
    how.add_argument(
        "--components",
        default=AUTO,
        choices=COMPONENTS,
        help="smallest components that count (default: the data set's own)",
    )
    how.add_argument(
        "--dump",
        nargs=2,
        metavar=("{" + ",".join(KINDS) + "}", "FOLDER"),
        help="also write the scores, to FOLDER/MODEL-SCORE/LABEL/FRAME",
    )
    how.add_argument("--fresh", action="store_true", help="ignore earlier results in OUT")
    how.add_argument(
        "--save-every",
        type=float,
        default=Plan.save_every,
        metavar="SECONDS",
        help="between saved states: a killed run loses no more (default: %(default)g)",
    )
    how.add_argument(
        "--memory",
        type=int,
        default=Plan.memory_limit // _MIB,
        metavar="MIB",
        help="memory for counts before they go to OUT (default: %(default)s)",
    )
    network = parser.add_argument_group("network")
    add_segmenter_options(network, SegmenterOptions())
    network.add_argument(
        "--threads",
        type=int,
        help="CPU threads of each process (default: all cores); the last digits depend on it",
    )
    return parser


def _plan(arguments: argparse.Namespace) -> Plan:
    """Builds the plan from the arguments.

    Raises:
        ParameterError: They contradict each other, or one is invalid.
    """
    if arguments.threads is not None and arguments.threads < 1:
        raise ParameterError(f"threads must be at least 1, got {arguments.threads}")
    models = [parse_named(text) for text in arguments.models]
    dumped = [parse_named(text) for text in arguments.dumped]
    if arguments.name is not None:
        if len(dumped) != 1:
            raise ParameterError("--name names the one folder of --dumped")
        dumped = [NamedPath(arguments.name, dumped[0].source)]
    if not models and not dumped:
        models = [NamedPath("default", "default")]
    return Plan(
        models=tuple(models),
        data=tuple(parse_data(text) for text in arguments.data),
        out=arguments.out,
        scores=tuple(arguments.scores),
        dumped=tuple(dumped),
        via=arguments.via,
        components=arguments.components,
        dump=None
        if arguments.dump is None
        else (check_kind(arguments.dump[0]), Path(arguments.dump[1])),
        segmenter=segmenter_options(arguments),
        limit=arguments.limit,
        memory_limit=arguments.memory * _MIB,
        save_every=arguments.save_every,
        fresh=arguments.fresh,
    )


if __name__ == "__main__":
    sys.exit(main())

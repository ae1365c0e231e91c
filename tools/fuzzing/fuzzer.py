# SPDX-License-Identifier: Apache-2.0
"""Runs targets under libFuzzer (atheris), each in a process of its own."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import atheris

from tools.fuzzing.target import Attack, Target, scratch_folder

# More memory than this, or more seconds for one input, is a failure.
MOST_MEGABYTES = 4096
LONGEST_SECONDS = 30
# The inputs so far: in the final figures, and before that as "#1024 pulse".
_EXECUTIONS = re.compile(r"^(?:stat::number_of_executed_units:\s*|#)(\d+)", re.MULTILINE)
_COVERAGE = re.compile(r"\bcov: (\d+)")
# What libFuzzer and atheris print when an input fails.
_FAILURE = re.compile(
    r"=== Uncaught Python exception: ===\n(?P<exception>.*)|ERROR: libFuzzer: (?P<fault>.*)"
)


@dataclass(frozen=True)
class Outcome:
    """The result of fuzzing one target.

    Attributes:
        target, area, reads: The target's name, area and what it reads.
        executions: Number of inputs tried.
        seconds: Wall time.
        branches: Number of instrumented branches reached.
        failure: What left the reader, in words; None if nothing did.
        input_file: The input that failed.
    """

    target: str
    area: str
    reads: str
    executions: int
    seconds: float
    branches: int
    failure: str | None = None
    input_file: str | None = None


def fuzz(target: Target, folder: Path, limits: Sequence[str]) -> Outcome:
    """Fuzzes one target.

    Args:
        target: A target whose module was imported with instrumentation.
        folder: Folder for the log, the corpus, with which a later run goes on, and failures.
        limits: libFuzzer's options that end it: ``-max_total_time=60``, ``-runs=1000``.
    """
    corpus, failures, log = folder / "corpus", folder / "failures", folder / "log.txt"
    for place in (corpus, failures):
        place.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed_{number:03d}").write_bytes(seed)
    before = _failed_inputs(failures)
    began = time.monotonic()
    with scratch_folder() as scratch:
        child = os.fork()  # libFuzzer never returns: it ends its process
        if child == 0:
            _become_fuzzer(
                target, scratch, log, [*limits, f"-artifact_prefix={failures}/", str(corpus)]
            )
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    seconds = time.monotonic() - began
    text = log.read_text(encoding="utf-8", errors="replace")
    executions = _EXECUTIONS.findall(text)
    branches = _COVERAGE.findall(text)
    new = sorted(_failed_inputs(failures) - before)
    return Outcome(
        target.name,
        target.area,
        target.reads,
        int(executions[-1]) if executions else 0,
        round(seconds, 1),
        int(branches[-1]) if branches else 0,
        _failure(text, status) if status or new else None,
        str(new[0]) if new else None,
    )


def _failed_inputs(folder: Path) -> set[Path]:
    """Kept inputs, without those that libFuzzer merely calls slow."""
    return {path for path in folder.iterdir() if not path.name.startswith("slow-unit-")}


def _failure(log: str, status: int) -> str:
    found = _FAILURE.search(log)
    if found is None:
        return f"ended with status {status}"
    return (found["exception"] or found["fault"])[:300]


def _become_fuzzer(target: Target, scratch: Path, log: Path, options: list[str]) -> None:
    """Turns this process into a fuzzer; does not return."""
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        attack = Attack(target, scratch)

        def once(data: bytes) -> None:
            attack(data)

        atheris.Setup(
            [
                sys.argv[0],
                f"-rss_limit_mb={MOST_MEGABYTES}",
                f"-timeout={LONGEST_SECONDS}",
                "-print_final_stats=1",
                "-close_fd_mask=2",  # what decoders say of damaged pictures
                "-verbosity=1",
                "-seed=1",
                *options,
            ],
            once,
        )
        atheris.Fuzz()
    except SystemExit as end:
        # The C library's exit: libFuzzer keeps the input there, and Python's stack, which is the
        # parent's, must not be unwound.
        ctypes.CDLL(None).exit(end.code if isinstance(end.code, int) else 1)
    finally:
        os._exit(70)

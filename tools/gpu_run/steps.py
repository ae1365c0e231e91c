# SPDX-License-Identifier: Apache-2.0
"""Commands that share a time; what each has written stays, whatever becomes of the others."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# Most seconds that a command has left after Ctrl-C, and most of its share.
_GRACE, _GRACE_SHARE = 5.0, 0.1
_LOOK = 0.5


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        end: "done", "failed" or "out of time".
        code: Its exit code.
        seconds: How long it took.
    """

    end: str
    code: int
    seconds: float


def run_command(
    command: Sequence[str],
    log: Path,
    seconds: float,
    environment: Mapping[str, str],
    look: Callable[[], None] = lambda: None,
) -> Outcome:
    """Runs a command from the repository, and ends it and its children when its time is over.

    Args:
        command: Program and arguments.
        log: File for all that it prints.
        seconds: Its time, the five seconds after Ctrl-C included.
        environment: Its environment.
        look: Called about twice a second.
    """
    began = time.monotonic()
    grace = min(_GRACE, _GRACE_SHARE * seconds)
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        in_time = False
        try:
            while time.monotonic() - began < seconds - grace:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_LOOK)
                    in_time = True
                    break
                look()
        finally:
            _end(process, grace)
    code = process.returncode
    end = ("failed" if code else "done") if in_time else "out of time"
    return Outcome(end, code, round(time.monotonic() - began, 1))


def _end(process: subprocess.Popen, grace: float) -> None:
    """Ends a command, and children that it has left behind."""
    # The group is gone if none is left.
    with suppress(ProcessLookupError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(grace)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

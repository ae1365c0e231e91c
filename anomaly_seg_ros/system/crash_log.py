# SPDX-License-Identifier: Apache-2.0
"""Reports unexpected errors: one line for the user, the traceback in a file.

Standard library only, so that it also works in an incomplete installation.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from types import TracebackType


def log_folder() -> Path:
    """Folder of tracebacks: ``$XDG_STATE_HOME/anomaly_seg_ros``, or below ``~/.local/state``."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")  # noqa: PTH111
    return Path(home) / "anomaly_seg_ros"


def report_crash(tool: str, error: BaseException) -> None:
    """Writes the traceback to a log file, and one line with that file's name to stderr.

    Args:
        tool: Name of the program, for the line and for the file.
        error: The error, with its traceback.
    """
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    line = f"{tool}: error: {in_words(error)}"
    log = _write(tool, f"{' '.join(sys.argv)}\nPython {sys.version}\n\n{text}")
    if log is None:
        sys.stderr.write(f"{text}{line} (no folder for a log could be written)\n")
    else:
        sys.stderr.write(f"{line} (traceback: {log})\n")


def in_words(error: BaseException) -> str:
    """Says in one line what happened and, if known, what to do."""
    from anomaly_seg_ros.system.missing_packages import broken_installation

    if words := broken_installation(error):
        return words
    if isinstance(error, MemoryError):
        return "out of memory"
    message = (str(error).strip().splitlines() or [""])[0]
    name = type(error).__name__
    return f"{name}: {message}" if message else name


def guard_program() -> None:
    """Reports every uncaught error by :func:`report_crash` if a module runs as a program.

    ``python -m package.module`` imports the package first, with ``-m`` as ``sys.argv[0]``. Called
    there, this covers even the module's own imports, and does nothing if the package is merely
    imported.
    """
    if sys.argv[:1] == ["-m"]:
        install_hooks()


def install_hooks() -> None:
    """Reports this process's uncaught errors, in any thread, by :func:`report_crash`."""
    sys.excepthook = _report_uncaught
    threading.excepthook = _report_uncaught_in_thread


def _report_uncaught(
    _kind: type[BaseException], error: BaseException, _trace: TracebackType | None
) -> None:
    if isinstance(error, KeyboardInterrupt):
        sys.stderr.write(f"{_program()}: interrupted\n")
    else:
        report_crash(_program(), error)


def _report_uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None:
        report_crash(_program(), arguments.exc_value)


def _program() -> str:
    """Name of the program as the user started it: ``training.fine_tune`` or ``detector``."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None:
        name = spec.name.removesuffix(".__main__")
        return name.rsplit(".", 1)[-1] if name.startswith("anomaly_seg_ros.") else name
    return Path(sys.argv[0]).stem if sys.argv[0] not in ("", "-m", "-c") else "anomaly_seg_ros"


def _write(tool: str, text: str) -> Path | None:
    name = f"{tool}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    for folder in (log_folder(), Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / name
            path.write_text(text)
        except OSError:
            continue
        return path
    return None

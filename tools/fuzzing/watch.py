# SPDX-License-Identifier: Apache-2.0
"""Watches a reader through Python's audit events, and forbids what no file may cause."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import rosbags.serde.utils

# A folder beside the target's, in which no file may even be opened.
OUTSIDE = "outside"
# A module that some seeds name and nobody may import.
CANARY = "fuzz_canary"

# Events (https://docs.python.org/3/library/audit_events.html) that start or reach something.
_NEVER = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.kill"),
    *("os.putenv", "os.unsetenv", "pty.spawn", "subprocess.Popen", "webbrowser.open"),
    *("socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.Request", "ctypes.dlopen"),
    *("signal.pthread_kill", "syslog.syslog", "code.__new__", "function.__new__"),
)
# Events whose first argument is a path that is changed.
_CHANGES = (
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link"),
    *("os.symlink", "os.truncate", "os.utime", "shutil.rmtree", "shutil.move", "shutil.copyfile"),
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Forbidden(BaseException):
    """Something that no file may cause. No Exception, so that no reader swallows it."""


class Watch:
    """A context in which forbidden events raise, and are remembered.

    Args:
        inside: Folder in which files may be written.
        outside: Folder in which no file may be opened.
    """

    def __init__(self, inside: Path, outside: Path) -> None:
        self._inside = os.path.realpath(inside)
        self._outside = os.path.realpath(outside)
        self._is_on = False
        self._seen: list[str] = []
        sys.addaudithook(self._event)  # for the life of the process: hooks cannot be removed

    def __enter__(self) -> Watch:
        self._seen.clear()
        self._is_on = True
        return self

    def __exit__(self, *_: object) -> None:
        self._is_on = False

    def verify(self) -> None:
        """Raises Forbidden if something was seen, even if the reader caught it."""
        if self._seen:
            raise Forbidden("; ".join(self._seen))

    def _event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._is_on:
            return
        if self._is_forbidden(event, arguments):
            self._is_on = False  # what reports it may open files itself
            self._seen.append(f"{event}{arguments!r:.200}")
            raise Forbidden(self._seen[-1])

    def _is_forbidden(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "open":
            path, _, flags = arguments
            return self._is_forbidden_file(path, flags)
        if event == "exec":
            return not _is_trusted_code()
        if event == "import":
            return arguments[0] == CANARY
        if event in _CHANGES:
            return not self._lies_in(arguments[0], self._inside)
        return event in _NEVER

    def _is_forbidden_file(self, path: Any, flags: int) -> bool:
        if not isinstance(path, str | bytes):  # a descriptor that is open already
            return False
        if self._lies_in(path, self._outside):
            return True
        writes = isinstance(flags, int) and flags & _WRITING
        return bool(writes) and not self._lies_in(path, self._inside) and path != os.devnull

    @staticmethod
    def _lies_in(path: Any, folder: str) -> bool:
        try:
            real = os.path.realpath(os.fsdecode(path))
        except (TypeError, ValueError):  # a descriptor, or a name with a zero byte
            return False
        return real == folder or real.startswith(f"{folder}{os.sep}")


def _is_trusted_code() -> bool:
    """Whether an import runs the code, or rosbags, which compiles its own message types."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        if frame.f_code.co_filename == rosbags.serde.utils.__file__:
            return True
        frame = frame.f_back
    return False

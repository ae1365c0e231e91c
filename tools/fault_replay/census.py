"""What a process holds: memory, threads, handles. Linux only: it reads /proc."""

from __future__ import annotations

import os
import threading
from pathlib import Path


def resident_mib(pid: int) -> float:
    """Resident memory of a process in MiB; 0 if it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def own_handles() -> dict[str, list[str]]:
    """What this process holds, each as a sorted list of names.

    Returns:
        ``python_threads``, ``native_threads`` (these among them) and ``open_files``.
    """
    tasks = Path("/proc/self/task").iterdir()
    return {
        "python_threads": sorted(thread.name for thread in threading.enumerate()),
        "native_threads": sorted(_text(task / "comm") for task in tasks),
        "open_files": sorted(_target(handle) for handle in Path("/proc/self/fd").iterdir()),
    }


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:  # it has just ended
        return "ended"


def _target(handle: Path) -> str:
    """What a file descriptor points to, without the numbers of sockets and pipes."""
    try:
        return str(handle.readlink()).partition(":")[0]
    except OSError:
        return "closed"

"""Keeps the memory of freed frames for the next ones, instead of giving it back to the kernel."""

from __future__ import annotations

import ctypes

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_GIB = 2**30
_LARGEST_OF_OLD_GLIBC = 32 * 2**20


def keep_freed_memory() -> bool:
    """Let this process reuse large blocks; to be called once, by whoever owns the process.

    By default glibc maps every block of some megabytes anew and unmaps it when it is freed, and
    the kernel clears each of its pages at the first touch. That costs three to four times what
    copying an image does, for every copy of every frame. Afterwards up to 1 GiB of freed memory
    stays with the process; its peak does not grow.

    Returns:
        False where malloc is not glibc's: nothing is changed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return bool(
        mallopt(_M_TRIM_THRESHOLD, _GIB)
        and (mallopt(_M_MMAP_THRESHOLD, _GIB) or mallopt(_M_MMAP_THRESHOLD, _LARGEST_OF_OLD_GLIBC))
    )

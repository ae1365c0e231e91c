# SPDX-License-Identifier: Apache-2.0
"""Keeps the memory of freed frames for the next ones instead of returning it to the kernel."""

from __future__ import annotations

import ctypes

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_GIB = 2**30
_LARGEST_OF_OLD_GLIBC = 32 * 2**20


def keep_freed_memory() -> bool:
    """Lets this process reuse large freed blocks; the owner of the process calls it once.

    By default glibc maps every block of some megabytes anew and unmaps it when it is freed, and
    the kernel clears each of its pages at the first touch. For every copy of every frame that
    costs three to four times as much as copying the image. With this, up to 1 GiB of freed memory
    stays with the process; its peak does not grow.

    Returns:
        False if malloc is not glibc's, and nothing changes.
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

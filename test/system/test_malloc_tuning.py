# SPDX-License-Identifier: Apache-2.0
"""Freed memory stays with the process, seen from outside: by the kernel's count of page faults."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FRAME_BYTES = 6 * 2**20
PAGE_BYTES = 4096
COUNT_FAULTS = f"""
import resource
from anomaly_seg_ros.system.malloc_tuning import keep_freed_memory

def copies(count):
    for _ in range(count):
        block = b"x" * {FRAME_BYTES}
        other = bytes(bytearray(block))
        del block, other

if {{keep}}:
    assert keep_freed_memory()
copies(5)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
copies(10)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool) -> int:
    """Page faults of ten frames' copies after the first five, in a fresh process."""
    code = COUNT_FAULTS.format(keep=keep)
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return int(result.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is set up")
def test_copies_of_frames_touch_no_new_pages():
    assert faults(keep=False) > FRAME_BYTES / PAGE_BYTES  # or there would be nothing to do
    assert faults(keep=True) < 50

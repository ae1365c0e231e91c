# SPDX-License-Identifier: Apache-2.0
"""Handles and memory of a process."""

from __future__ import annotations

import mmap
import os
import sys
import threading

import numpy as np
import pytest

from tools.fault_replay.detector_process import own_handles, resident_mib

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_threads_and_files_come_and_go(tmp_path):
    before = own_handles()
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name="extra")
    thread.start()
    with (tmp_path / "file").open("w"):
        during = own_handles()
    release.set()
    thread.join()
    assert during["python_threads"].count("extra") == 1
    assert len(during["native_threads"]) == len(before["native_threads"]) + 1
    assert str(tmp_path / "file") in during["open_files"]
    assert own_handles() == before


def test_memory_of_a_process():
    before = resident_mib(os.getpid())
    # From the kernel, not from malloc, which may have kept as much from an earlier test.
    with mmap.mmap(-1, 64 << 20) as block:
        np.frombuffer(block, np.uint8).fill(1)
        assert resident_mib(os.getpid()) - before > 50
    assert resident_mib(2**22 + 1) == 0

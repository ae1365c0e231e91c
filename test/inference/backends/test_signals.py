# SPDX-License-Identifier: Apache-2.0
"""Networks on OpenVINO come and go without taking the stack that signal handlers run on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TEST = Path(__file__).resolve().parents[2]

# In a process of its own, which ended with a segmentation fault at its next signal before there
# was one Core for all, where the CPU has AMX.
_JOB = f"""
import ctypes, faulthandler, gc, sys
from pathlib import Path
sys.path[:0] = [{str(TEST)!r}, {str(TEST.parent)!r}]
faulthandler.enable()  # as pytest does: it brings a stack of its own
from tiny import tiny_metadata
from tiny_backends import CPU, Strided, frames
from anomaly_seg_ros.inference.backends.openvino_backend import OpenVinoBackend
from anomaly_seg_ros.system.stopwatch import Stopwatch

class Stack(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

def is_mapped():
    stack = Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    ranges = (line.split()[0].split("-") for line in Path("/proc/self/maps").open())
    return any(int(first, 16) <= stack.start < int(last, 16) for first, last in ranges)

def run():
    backend = OpenVinoBackend(Strided(), tiny_metadata(True), "fp32", 1)
    backend(frames(1, 64, 96), Stopwatch(CPU))
    return backend

assert is_mapped()
first, second = run(), run()
del first
gc.collect()
del second
gc.collect()
assert is_mapped(), "the stack for signal handlers is gone"
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_stack_of_signal_handlers_stays() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _JOB], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, (done.returncode, done.stderr)

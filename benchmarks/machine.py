# SPDX-License-Identifier: Apache-2.0
"""The machine and the software that a report was measured on, and how fast it copies memory."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.stopwatch import milliseconds

REPOSITORY = Path(__file__).resolve().parents[1]
_CPU_INFO = Path("/proc/cpuinfo")
# Instruction sets that decide which backend and precision is fast.
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile", "amx_int8")
_PACKAGES = ("torch", "openvino", "onnxruntime", "numpy", "opencv-python-headless", "ros-rclpy")
_ENVIRONMENT = (
    *("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_"),
    *("RMW_IMPLEMENTATION", "FASTDDS_BUILTIN_TRANSPORTS", "FASTRTPS_DEFAULT_PROFILES_FILE"),
    *("FASTDDS_DEFAULT_PROFILES_FILE", "RMW_FASTRTPS_PUBLICATION_MODE"),
)
_COPIES = 20


def describe(device: torch.device) -> dict[str, Any]:
    """Hardware, versions, and the environment variables that affect speed.

    Args:
        device: The measured device; a GPU is named only if it is this one.
    """
    cpu, flags = cpu_and_flags()
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "flags": [flag for flag in _FLAGS if flag in flags],
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
        "environment": {
            key: os.environ[key].replace(f"{REPOSITORY}/", "")
            for key in _ENVIRONMENT
            if key in os.environ
        },
    }


def same_machine(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two descriptions name the same hardware."""
    return all(one.get(key) == other.get(key) for key in ("cpu", "cores", "flags", "gpu"))


def commit() -> str:
    """The checkout's commit, with ``+changes`` if the working tree differs; or ``unknown``."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+changes" if _git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def resident_bytes() -> int:
    """Memory that this process holds now. Linux only."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def copy_ms(size: tuple[int, int]) -> float:
    """Median milliseconds to copy a frame in and its three outputs out once, in one thread.

    No node can be faster.

    Args:
        size: (height, width) of the frame.
    """
    pixels = size[0] * size[1]
    # RGB in; labels, float32 score and mask out.
    sources = [np.ones(pixels * width, np.uint8) for width in (3, 1, 4, 1)]
    targets = [np.zeros_like(source) for source in sources]

    def copy() -> None:
        for target, source in zip(targets, sources, strict=True):
            np.copyto(target, source)

    return statistics.median(milliseconds(copy) for _ in range(_COPIES))


def cpu_and_flags() -> tuple[str, set[str]]:
    """The first processor's name and flags."""
    name, flags = platform.processor() or platform.machine(), set()
    if _CPU_INFO.is_file():
        for line in _CPU_INFO.read_text(encoding="utf-8").split("\n\n")[0].splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() == "flags":
                flags = set(value.split())
    return name, flags


def _version(package: str) -> str | None:
    """Version of an installed distribution; None without it, as for an rclpy from apt."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()

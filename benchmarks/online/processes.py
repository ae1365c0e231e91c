"""What the kernel counts about a process, and how the benchmark's own nodes run in one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import rclpy
from rclpy.node import Node

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """Seconds of one core that a process has used so far, user and system."""
    # The second field is the program's name in brackets and may hold spaces.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def spin(make: Callable[[], Node]) -> None:
    """Makes a node and spins it until it is interrupted."""
    rclpy.init()
    node = make()
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()

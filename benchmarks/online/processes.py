"""Nodes in processes of their own, and what the kernel counts about them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from anomaly_seg_ros.ros.node_process import NodeProcess

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_MIB_IN_KIB = 1024


class MeasuredProcess(NodeProcess):
    """Any node started like the detector.

    Args:
        module: That runs the node when it is executed.
        node: Its name.
        namespace, parameters, log: See :class:`~anomaly_seg_ros.ros.node_process.NodeProcess`.
    """

    def __init__(
        self, module: str, node: str, namespace: str, parameters: Mapping[str, object], log: Path
    ) -> None:
        super().__init__(namespace, parameters, log)
        self.name = f"{namespace}/{node}"
        self._command[self._command.index("-m") + 1] = module

    @property
    def pid(self) -> int:
        """Of the running process."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process.pid


def cpu_seconds(pid: int) -> float:
    """Seconds of one core that a process has used so far, user and system."""
    # The second field is the program's name in brackets and may hold spaces.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def peak_rss_mib(pid: int) -> float:
    """The most memory that a process has had resident, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / _MIB_IN_KIB
    raise RuntimeError(f"/proc/{pid}/status has no VmHWM")

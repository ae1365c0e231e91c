# SPDX-License-Identifier: Apache-2.0
"""A node in a child process, for tools that start their own detector."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from anomaly_seg_ros.errors import AnomalySegError

STOP_TIMEOUT_S = 30.0


class NodeProcess:
    """Starts a node and ends it with SIGINT, as a context manager.

    Args:
        namespace: Namespace of the node, so that several do not collide; its full name is
            ``<namespace>/<node>``.
        parameters: Parameter overrides; for the detector those of ``config/detector.yaml``.
        log: File that receives the node's output.
        module: Module that runs the node when executed.
        node: Name of the node.
    """

    def __init__(
        self,
        namespace: str,
        parameters: Mapping[str, object],
        log: Path,
        module: str = "anomaly_seg_ros.ros.detector",
        node: str = "detector",
    ) -> None:
        self.name = f"{namespace}/{node}"
        self.log = log
        self._command = [sys.executable, "-m", module, "--ros-args"]
        self._command += ["-r", f"__ns:={namespace}"]
        for key, value in parameters.items():
            # Quoted, because a model called "1" would arrive as a number.
            text = f'"{value}"' if isinstance(value, str) else str(value).lower()
            self._command += ["-p", f"{key}:={text}"]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> NodeProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the process that was started last."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process.pid

    def start(self) -> None:
        """Starts the node; a detector then configures and activates itself."""
        with self.log.open("ab") as log:
            environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}  # as the launch file
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
            )

    def stop(self) -> int | None:
        """Interrupts the node and waits; returns its exit code, or None if it never ran."""
        if self._process is None:
            return None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.returncode

    def kill(self) -> None:
        """Kills the process, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def check_alive(self) -> None:
        """Raises AnomalySegError with the last lines of the log if the process has ended."""
        if self._process is None or self._process.poll() is None:
            return
        lines = self._log_text().strip().splitlines()
        raise AnomalySegError(
            f"the node ended with code {self._process.returncode}: {' | '.join(lines[-3:])}"
        )

    def is_active(self) -> bool:
        """Tells whether the node became active, according to its log."""
        return ": active, listening on " in self._log_text()

    def failure(self) -> str | None:
        """Returns why ``configure`` failed, according to the log; None if it did not."""
        for line in reversed(self._log_text().splitlines()):
            if "configure failed: " in line:
                return line.split("configure failed: ", 1)[1]
        return None

    def _log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

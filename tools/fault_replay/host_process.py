"""The other side of ``host``: starts it, commands it, watches it."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anomaly_seg_ros.errors import AnomalySegError

_REPLY_S = 60.0


class HostProcess:
    """A detector in a process of its own that can be told to fail.

    Args:
        weights: Of :func:`~tools.fault_replay.network.save_smallest_model`.
        parameters: Overrides of ``config/detector.yaml``.
        log: Receives the node's output.
    """

    def __init__(self, weights: Path, parameters: Mapping[str, object], log: Path) -> None:
        self._log = log
        command = [sys.executable, "-m", "tools.fault_replay.host", str(weights)]
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [*command, json.dumps(dict(parameters))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self._replies: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.before = self._reply()["before"]

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def check_alive(self) -> None:
        """Raises AnomalySegError with the end of the log if the process has ended."""
        if self._process.poll() is not None:
            lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise AnomalySegError(
                f"the detector's process ended with code {self._process.returncode}: "
                + " | ".join(lines[-4:])
            )

    def command(self, what: str, **arguments: object) -> dict[str, Any]:
        """Sends a command and returns the reply.

        Raises:
            AnomalySegError: The process has ended or does not reply.
        """
        try:
            self._process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
            self._process.stdin.flush()
        except OSError:
            self.check_alive()
            raise
        return self._reply()

    def quit(self) -> dict[str, Any]:
        """Ends the node in order; the handles that its process holds afterwards.

        Raises:
            AnomalySegError: The process ended otherwise.
        """
        self._process.stdin.write(json.dumps({"do": "quit"}) + "\n")
        self._process.stdin.close()
        after = self._reply()["after"]
        if code := self._process.wait(_REPLY_S):
            raise AnomalySegError(f"the detector's process ended with code {code}")
        return after

    def kill(self) -> None:
        """Ends the process at once."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        for line in self._process.stdout:
            self._replies.put(json.loads(line))

    def _reply(self) -> dict[str, Any]:
        try:
            reply = self._replies.get(timeout=_REPLY_S)
        except queue.Empty:
            self.check_alive()
            raise AnomalySegError(
                f"the detector's process has not replied in {_REPLY_S:.0f} s"
            ) from None
        if "error" in reply:
            raise AnomalySegError(f"the detector's process: {reply['error']}")
        return reply

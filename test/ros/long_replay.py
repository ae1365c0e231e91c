# SPDX-License-Identifier: Apache-2.0
"""The long fault replay in a process of its own, which runs beside other tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

TEST = "test_a_hundred_thousand_frames"
_LONGEST_S, _STOP_S = 1100, 60


class LongReplay:
    """``python -m tools.fault_replay`` with its defaults.

    It takes five minutes, in which its processes mostly wait for each other.

    Args:
        domain: DDS domain of its own.

    Attributes:
        out: The folder of its results.
    """

    def __init__(self, domain: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="long_replay_")
        self.out = Path(self._folder.name)
        self._log = self.out / "log.txt"
        # As in the tests: processes that are killed leave their shared memory behind.
        settings = {"ROS_DOMAIN_ID": str(domain), "FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"}
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tools.fault_replay", "--out", self.out],
                env=os.environ | settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait(self) -> tuple[int, str]:
        """Its exit code and what it said, once it has ended."""
        return self._process.wait(_LONGEST_S), self._log.read_text(encoding="utf-8")

    def close(self) -> None:
        """Ends it if it still runs, and removes its folder."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

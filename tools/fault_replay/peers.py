"""Processes beside the detector that are killed without warning."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

from anomaly_seg_ros.errors import AnomalySegError
from anomaly_seg_ros.ros.publishers import FRAME_TOPICS
from tools.fault_replay import peer
from tools.fault_replay.ledger import Content, Header, Ledger
from tools.fault_replay.link import DETECTOR, IMAGE_TOPIC

_NAME = "peer"
_FRAMES_AT_LEAST = 20
_VIEWING_AT_LEAST_S = 3.0
_PIPE_S = 5.0


class Peers:
    """At most one camera and one viewer at a time; the ledger learns the camera's frames.

    Args:
        ledger: Of the run.

    Attributes:
        killed: How many were, by role.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._camera: subprocess.Popen[str] | None = None
        self._viewer: subprocess.Popen[bytes] | None = None
        self._viewer_since = 0.0
        self._reader: threading.Thread | None = None
        self._frame_id = ""
        self._known = 0  # frames that the camera has announced
        self._entered = 0  # of these, in the ledger
        self.killed = {"camera": 0, "viewer": 0}

    @property
    def is_publishing(self) -> bool:
        """Whether a camera runs."""
        return self._camera is not None

    def start_camera(self) -> None:
        """Starts one; the last one, if it still runs, is killed first."""
        self._kill_camera()
        self._frame_id = f"{_NAME}{self.killed['camera']}"
        self._known = self._entered = 0
        self._camera = self._start(
            "camera", IMAGE_TOPIC, self._frame_id, stdout=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read, args=(self._camera,), daemon=True)
        self._reader.start()

    def start_viewer(self, variant: int) -> None:
        """Starts one on some image output; the last one, if it still runs, is killed first."""
        self._kill_viewer()
        names = [n for n, kind in FRAME_TOPICS.items() if kind.__name__ == "Image"]
        topic = f"{DETECTOR}/{names[variant % len(names)]}"
        self._viewer = self._start("viewer", topic)
        self._viewer_since = time.monotonic()

    def kill_those_at_work(self) -> None:
        """Kills whoever has published or listened for a while."""
        if self._known >= _FRAMES_AT_LEAST:
            self._kill_camera()
        if self._viewer and time.monotonic() - self._viewer_since > _VIEWING_AT_LEAST_S:
            self._kill_viewer()

    def kill_all(self) -> None:
        """Kills everybody at once."""
        self._kill_camera()
        self._kill_viewer()

    def enter_frames(self) -> None:
        """Enters what the camera has announced since the last call."""
        while self._entered < self._known:
            self._entered += 1
            header = Header(self._entered, 0, self._frame_id)
            content = Content(peer.HEIGHT, peer.WIDTH, _NAME)
            self._ledger.ask(header, content, "uncertain")

    def before_answer(self, header: Header) -> None:
        """Enters the question of an answer, whose announcement may come a little later."""
        if header.frame_id != self._frame_id:
            return
        deadline = time.monotonic() + _PIPE_S
        while self._known < header.sec and time.monotonic() < deadline:
            time.sleep(0.001)
        self.enter_frames()

    def _kill_camera(self) -> None:
        if self._camera is None:
            return
        self._camera.kill()
        self._camera.wait()
        self._reader.join()
        self._camera = None
        self.enter_frames()
        self.killed["camera"] += 1

    def _kill_viewer(self) -> None:
        if self._viewer is None:
            return
        self._viewer.kill()
        self._viewer.wait()
        self._viewer = None
        self.killed["viewer"] += 1

    def _start(self, role: str, *names: str, **options: object) -> subprocess.Popen:
        command = [sys.executable, "-m", "tools.fault_replay.peer", role, *names]
        try:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options
            )
        except OSError as error:
            raise AnomalySegError(f"cannot start a {role}: {error}") from error

    def _read(self, camera: subprocess.Popen[str]) -> None:
        for line in camera.stdout:
            if line.endswith("\n"):  # killed in the middle of a line
                self._known = int(line)
        camera.stdout.close()

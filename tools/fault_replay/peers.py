# SPDX-License-Identifier: Apache-2.0
"""A camera and a viewer in processes of their own, which are killed without warning.

    python -m tools.fault_replay.peers camera TOPIC FRAME_ID
    python -m tools.fault_replay.peers viewer TOPIC

The camera prints the number of each frame before it publishes it, so that the reader knows which
frames can exist, however the camera ends. Imports little: processes start all the time.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from anomaly_seg_ros.errors import AnomalySegError
from tools.fault_replay.ledger import Content, Header, Ledger

_NAME = "peer"
_PERIOD_S = 0.02
_HEIGHT, _WIDTH = 32, 48
_RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
# What a camera must have published and how long a viewer must have listened before it is killed.
_LEAST_FRAMES = 20
_LEAST_VIEWING_S = 3.0
_PIPE_S = 5.0


class Peers:
    """At most one camera and one viewer at a time; the ledger learns the camera's frames.

    Args:
        ledger: The books of the run.

    Attributes:
        killed: Processes killed so far, by role.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._camera: subprocess.Popen[str] | None = None
        self._viewer: subprocess.Popen[str] | None = None
        self._viewer_since = 0.0
        self._reader: threading.Thread | None = None
        self._frame_id = ""
        self._announced = 0  # frames that the camera has announced
        self._entered = 0  # of these, in the ledger
        self.killed = {"camera": 0, "viewer": 0}

    @property
    def is_publishing(self) -> bool:
        """Whether a camera runs."""
        return self._camera is not None

    def start_camera(self, topic: str) -> None:
        """Starts a camera; kills the last one first if it still runs."""
        self._kill_camera()
        self._frame_id = f"{_NAME}{self.killed['camera']}"
        self._announced = self._entered = 0
        self._camera = self._start("camera", topic, self._frame_id)
        self._reader = threading.Thread(target=self._read, args=(self._camera,), daemon=True)
        self._reader.start()

    def start_viewer(self, topic: str) -> None:
        """Starts a viewer of an image output; kills the last one first if it still runs."""
        self._kill_viewer()
        self._viewer = self._start("viewer", topic)
        self._viewer_since = time.monotonic()

    def kill_those_at_work(self) -> None:
        """Kills whoever has published or listened for a while."""
        if self._announced >= _LEAST_FRAMES:
            self._kill_camera()
        if self._viewer and time.monotonic() - self._viewer_since > _LEAST_VIEWING_S:
            self._kill_viewer()

    def kill_all(self) -> None:
        """Kills both processes."""
        self._kill_camera()
        self._kill_viewer()

    def enter_frames(self) -> None:
        """Enters the frames that the camera has announced since the last call."""
        while self._entered < self._announced:
            self._entered += 1
            header = Header(self._entered, 0, self._frame_id)
            self._ledger.ask(header, Content(_HEIGHT, _WIDTH, _NAME), "uncertain")

    def before_answer(self, header: Header) -> None:
        """Enters the frame of an answer, whose announcement may arrive a little later."""
        if header.frame_id != self._frame_id:
            return
        deadline = time.monotonic() + _PIPE_S
        while self._announced < header.sec and time.monotonic() < deadline:
            time.sleep(0.001)
        self.enter_frames()

    def _kill_camera(self) -> None:
        if self._camera is not None:
            self._camera.kill()
            self._camera.wait()
            self._reader.join()
            self._camera = None
            self.enter_frames()
            self.killed["camera"] += 1

    def _kill_viewer(self) -> None:
        if self._viewer is not None:
            self._viewer.kill()
            self._viewer.wait()
            self._viewer.stdout.close()
            self._viewer = None
            self.killed["viewer"] += 1

    def _start(self, role: str, *names: str) -> subprocess.Popen[str]:
        try:
            return subprocess.Popen(
                [sys.executable, "-m", "tools.fault_replay.peers", role, *names],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        except OSError as error:
            raise AnomalySegError(f"cannot start a {role}: {error}") from error

    def _read(self, camera: subprocess.Popen[str]) -> None:
        for line in camera.stdout:
            if line.endswith("\n"):  # else it was killed in the middle of a line
                self._announced = int(line)
        camera.stdout.close()


def main() -> None:
    """Publishes or listens until the process is killed."""
    role, topic, *frame_id = sys.argv[1:]
    rclpy.init()
    node = Node(f"fault_{role}_{time.monotonic_ns()}")
    if role == "viewer":
        node.create_subscription(Image, topic, lambda message: None, _RELIABLE)
        rclpy.spin(node)
        return
    publisher = node.create_publisher(Image, topic, _RELIABLE)
    message = Image(height=_HEIGHT, width=_WIDTH, encoding="rgb8", step=3 * _WIDTH)
    message.data.frombytes(bytes(3 * _WIDTH * _HEIGHT))
    (message.header.frame_id,) = frame_id
    while True:
        message.header.stamp.sec += 1
        print(message.header.stamp.sec, flush=True)
        publisher.publish(message)
        time.sleep(_PERIOD_S)


if __name__ == "__main__":
    main()

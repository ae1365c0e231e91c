# SPDX-License-Identifier: Apache-2.0
"""Sends frames to one node, takes the time until its three outputs are here, hears its account.

Messages go and come as bytes: converting them is the cost of whoever sends or receives, not of
the node that is measured.
"""

from __future__ import annotations

import gc
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Float32, Header

from anomaly_seg_ros.errors import AnomalySegError
from anomaly_seg_ros.ros.messages import image_message

OUTPUTS = ("labels", "ood_score", "open_set_mask")
_DIAGNOSTICS_TIMEOUT_S = 10.0
_ASK_AGAIN_S = 20.0
_QUIET_S = 0.5
_QUEUE = 10
# The header's stamp in a serialised message, after the encapsulation.
_STAMP_AT = 4
_STAMP = struct.Struct("<iI")
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


class PreparedFrame:
    """An Image message serialised once, so that sending it costs no conversion.

    Args:
        rgb: (H, W, 3) uint8.
    """

    def __init__(self, rgb: np.ndarray) -> None:
        message = image_message(rgb, "rgb8", Header(frame_id="camera"))
        serialised = serialize_message(message)
        self._before = serialised[:_STAMP_AT]
        self._after = serialised[_STAMP_AT + _STAMP.size :]

    def stamped(self, stamp_ns: int) -> bytes:
        """The message with this stamp; one copy."""
        return b"".join((self._before, _STAMP.pack(*divmod(stamp_ns, 10**9)), self._after))


def stamp_of(serialised: bytes) -> int:
    """The stamp of a serialised message that begins with a header, in nanoseconds."""
    seconds, nanoseconds = _STAMP.unpack_from(serialised, _STAMP_AT)
    return seconds * 10**9 + nanoseconds


class Stamps:
    """Stamps of the present time, each greater than the one before."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        """In nanoseconds."""
        self._last = max(time.time_ns(), self._last + 1)
        return self._last


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used so far, user and system, in seconds of one core."""
    # The second field is the program's name in brackets and may hold spaces.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


class Account:
    """What a detector says about its own time, per frame and in its diagnostics.

    Args:
        node: The node whose executor delivers the messages.
        detector: The detector's fully qualified name.

    Attributes:
        processing_ms: The detector's own time for each frame, in order.
        statuses: The newest status of each name (``model``, ``input``, ``latency``).
        reports: Number of diagnostics received.
    """

    def __init__(self, node: Node, detector: str) -> None:
        self.processing_ms: list[float] = []
        self.statuses: dict[str, dict[str, str]] = {}
        self.reports = 0
        self._prefix = f"{detector}: "
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, _QUEUE)
        topic = f"{detector}/debug/processing_latency_ms"
        node.create_subscription(Float32, topic, self._on_processing, _QUEUE)

    def _on_processing(self, message: Float32) -> None:
        self.processing_ms.append(message.data)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        own = [status for status in message.status if status.name.startswith(self._prefix)]
        for status in own:
            values = {pair.key: pair.value for pair in status.values}
            self.statuses[status.name.removeprefix(self._prefix)] = values
        self.reports += bool(own)


@dataclass
class Load:
    """What became of frames that were sent faster than the node can work.

    Attributes:
        seconds: How long frames were sent.
        sent: Frames sent.
        in_time: Frames whose outputs all came while frames were still being sent.
        answered: Frames answered in time or later.
        latencies_ms: Latencies of the answered frames.
    """

    seconds: float
    sent: int
    in_time: int
    answered: int = 0
    latencies_ms: list[float] = field(default_factory=list)


class Client:
    """Talks to one node.

    Args:
        name: Fully qualified name of the node.
        image_topic: Topic on which the node listens.

    Attributes:
        publish_ms: Time within ``publish`` for each frame sent.
    """

    def __init__(self, name: str, image_topic: str) -> None:
        self.name = name
        self._topic = image_topic
        self._node = Node("benchmark", namespace=name, start_parameter_services=False)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        profile = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        newest = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
        self._publisher = self._node.create_publisher(Image, image_topic, newest)
        self._subscriptions = [
            self._node.create_subscription(
                Image, f"{name}/{output}", self._receiver(output), profile, raw=True
            )
            for output in OUTPUTS
        ]
        self._account: Account | None = None
        self._stamps = Stamps()
        self._sent: dict[int, float] = {}
        self._missing: dict[int, set[str]] = {}
        self._latencies: dict[int, float] = {}
        self.publish_ms: list[float] = []

    @property
    def processing_ms(self) -> list[float]:
        """The node's own time for each frame; empty if its account is not heard."""
        return self._account.processing_ms if self._account is not None else []

    def close(self) -> None:
        """Leaves the graph."""
        self._executor.shutdown()
        self._node.destroy_node()
        # Reference cycles keep the DDS entities alive until they are collected.
        del self._executor, self._node, self._publisher, self._subscriptions, self._account
        gc.collect()

    def wait_connected(self, timeout: float, check: Callable[[], None]) -> None:
        """Waits until the node listens and publishes.

        Args:
            timeout: Seconds.
            check: Called between waits; raises if waiting is in vain.

        Raises:
            AnomalySegError: It did not appear in time.
        """
        deadline = time.monotonic() + timeout
        while not self._is_connected():
            check()
            if time.monotonic() > deadline:
                raise AnomalySegError(f"{self.name} is not ready after {timeout:.0f} s")
            self._executor.spin_once(timeout_sec=0.1)

    def warm_up(self, frame: PreparedFrame, timeout: float) -> None:
        """Sends a frame until the node answers, as it may find our subscriptions late.

        Raises:
            AnomalySegError: No complete answer in time (seconds).
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.ask(frame, _ASK_AGAIN_S)
                break
            except AnomalySegError:
                if time.monotonic() > deadline:
                    raise
        # An answer to a frame before that is still on its way must not be taken for the next's.
        quiet = time.monotonic() + _QUIET_S
        while time.monotonic() < quiet:
            self._executor.spin_once(timeout_sec=_QUIET_S)
        self.publish_ms.clear()
        self.processing_ms.clear()

    def ask(self, frame: PreparedFrame, timeout: float) -> float:
        """Sends a frame, waits for its outputs, and returns milliseconds from topic to topic.

        Raises:
            AnomalySegError: No complete answer in time (seconds).
        """
        stamp = self._stamps.next()
        message = frame.stamped(stamp)
        said = len(self.processing_ms) + (self._account is not None)
        self._send(stamp, message)
        deadline = time.monotonic() + timeout
        while stamp not in self._latencies or len(self.processing_ms) < said:
            left = deadline - time.monotonic()
            if left <= 0:
                came = set(OUTPUTS) - self._missing[stamp]
                raise AnomalySegError(
                    f"{self.name} has not answered a frame within {timeout:.0f} s "
                    f"(came: {', '.join(sorted(came)) or 'nothing'})"
                )
            self._executor.spin_once(timeout_sec=left)
        return self._latencies[stamp]

    def load(self, frames: list[PreparedFrame], rate: float, seconds: float) -> Load:
        """Sends frames at a fixed rate, whatever comes back.

        Args:
            frames: Frames to send in turn.
            rate: Frames per second.
            seconds: How long.

        Returns:
            The load; :meth:`settle` completes it.
        """
        for past in (self._sent, self._missing, self._latencies):
            past.clear()
        began = time.perf_counter()
        sent = 0
        while (now := time.perf_counter()) - began < seconds:
            due = began + sent / rate
            if now >= due:
                stamp = self._stamps.next()
                self._send(stamp, frames[sent % len(frames)].stamped(stamp))
                sent += 1
            else:
                self._executor.spin_once(timeout_sec=due - now)
            self._executor.spin_once(timeout_sec=0.0)
        return Load(time.perf_counter() - began, sent, len(self._latencies))

    def settle(self, load: Load) -> None:
        """Waits for the last answers to a load and enters them."""
        # As long as something comes within a time that is long beside a frame's latency.
        patience = 1.0 + 2e-3 * max(self._latencies.values(), default=0.0)
        seen, since = len(self._latencies), time.monotonic()
        while time.monotonic() - since < patience and seen < load.sent:
            self._executor.spin_once(timeout_sec=0.1)
            if len(self._latencies) > seen:
                seen, since = len(self._latencies), time.monotonic()
        load.answered = seen
        load.latencies_ms = list(self._latencies.values())

    def listen_to_its_account(self) -> None:
        """Makes :meth:`ask` wait for the detector's own time of the frame, too.

        That wait is not part of the frame's time.
        """
        self._account = Account(self._node, self.name)

    def diagnostics(self) -> dict[str, dict[str, str]]:
        """Up-to-date status of a detector by name (``model``, ``input``, ``latency``).

        Raises:
            AnomalySegError: None came.
        """
        account = self._account
        # The first to come may have been on its way when the last frame was answered.
        target = account.reports + 2
        deadline = time.monotonic() + _DIAGNOSTICS_TIMEOUT_S
        while account.reports < target:
            if time.monotonic() > deadline:
                raise AnomalySegError(f"{self.name} publishes no diagnostics")
            self._executor.spin_once(timeout_sec=0.1)
        return account.statuses

    def _is_connected(self) -> bool:
        return self._publisher.get_subscription_count() > 0 and all(
            self._node.count_publishers(f"{self.name}/{output}") > 0 for output in OUTPUTS
        )

    def _send(self, stamp: int, message: bytes) -> None:
        self._missing[stamp] = set(OUTPUTS)
        began = self._sent[stamp] = time.perf_counter()
        self._publisher.publish(message)
        self.publish_ms.append(1e3 * (time.perf_counter() - began))

    def _receiver(self, output: str) -> Callable[[bytes], None]:
        def receive(serialised: bytes) -> None:
            now = time.perf_counter()
            stamp = stamp_of(serialised)
            missing = self._missing.get(stamp)
            if missing is None:
                return  # of a frame from before the load was put on
            missing.discard(output)
            if not missing:
                self._latencies[stamp] = 1e3 * (now - self._sent[stamp])

        return receive

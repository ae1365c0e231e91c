# SPDX-License-Identifier: Apache-2.0
"""Plays frames through a running detector, matches its answers by stamp and stores them."""

from __future__ import annotations

import contextlib
import gc
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lifecycle_msgs.srv import GetState
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from sensor_msgs.msg import CompressedImage, Image

from anomaly_seg_ros.bags.messages import RawImage
from anomaly_seg_ros.bags.reader import Frame
from anomaly_seg_ros.errors import DiscoveryError, ImageError, OutputError
from anomaly_seg_ros.ros.discovery import discovery_hints
from anomaly_seg_ros.ros.messages import show_data
from anomaly_seg_ros.ros.score_encoding import SCORE_ENCODINGS, decode_score
from anomaly_seg_ros.ros.stamps import header_at, nanoseconds_of

# An unanswered frame is published again after this time, because best effort may have lost it, and
# a restarted node has never seen it.
RESEND_AFTER_S = 15.0
# Discovery takes less than a second, or a few seconds on a very busy machine.
TELL_AFTER_S, FOUND_WITHIN_S = 5.0, 30.0
_ASK_AGAIN_S = 1.0
_OUTPUTS = ("labels", "ood_score", "open_set_mask")


@dataclass
class Answer:
    """The node's outputs for one frame.

    Attributes:
        labels: (H, W) uint8 trainIds.
        unit_score: (H, W) float32 in [0, 1].
        mask: (H, W) uint8, 255 = unknown.
        latency_ms: Time from publishing the frame to receiving the last of its outputs.
        sent: How often the frame was published until then.
    """

    labels: np.ndarray
    unit_score: np.ndarray
    mask: np.ndarray
    latency_ms: float
    sent: int = 1


class _Pending:
    def __init__(self) -> None:
        self.started = time.monotonic()
        self.sent = 0
        self.outputs: dict[str, np.ndarray] = {}


class Replayer:
    """The client of one detector.

    Args:
        detector: Fully qualified name of the node, such as ``/detector``.
        image_topic: The raw image topic that it listens on; ``/compressed`` is appended for
            compressed frames.
        compressed: Send CompressedImage messages.
        context: An initialised context of rclpy; None takes the default one.
        resend_after: Seconds until an unanswered frame is published again.
    """

    def __init__(
        self,
        detector: str,
        image_topic: str,
        compressed: bool = False,
        context: Context | None = None,
        resend_after: float = RESEND_AFTER_S,
    ) -> None:
        self._detector = detector
        self._node = Node("replay", context=context)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self._node)
        self._resend_after = resend_after
        self._pending: dict[int, _Pending] = {}
        self._answers: dict[int, Answer] = {}
        self.surplus = 0
        self._came = 0
        profile = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
        self._topic = f"{image_topic}/compressed" if compressed else image_topic
        self._publisher = self._node.create_publisher(
            CompressedImage if compressed else Image, self._topic, profile
        )
        self._subscriptions = [
            self._node.create_subscription(
                Image, f"{detector}/{name}", self._receiver(name), profile
            )
            for name in _OUTPUTS
        ]
        # After the subscriptions: see _is_found.
        self._state_client = self._node.create_client(GetState, f"{detector}/get_state")
        self._state_answers: list[Future] = []
        self._asked_at = -float("inf")

    def close(self) -> None:
        """Leaves the graph; only the counts may be used afterwards."""
        self._executor.shutdown()
        self._node.destroy_node()
        # A node is part of reference cycles, and its DDS participant lives until they are
        # collected. Among more than 32 participants on a machine some do not find each other, and
        # a process may evaluate a hundred bags.
        del self._executor, self._node, self._publisher, self._subscriptions
        del self._state_client, self._state_answers
        gc.collect()

    def wait_for_detector(
        self,
        timeout: float,
        check: Callable[[], None],
        is_active: Callable[[], bool] | None = None,
    ) -> None:
        """Waits until a detector listens and publishes.

        Args:
            timeout: Seconds to wait.
            check: Called between waits; raises if waiting is pointless.
            is_active: Tells whether the detector is known to be active, so that only discovery is
                left to wait for. None if that cannot be known: then the log says early what is
                missing.

        Raises:
            DiscoveryError: No detector appeared in time.
        """
        started = time.monotonic()
        deadline, told = started + timeout, is_active is not None
        while not (self._is_connected() and self._is_found()):
            check()
            now = time.monotonic()
            if is_active is not None and is_active():
                deadline, is_active = min(deadline, now + FOUND_WITHIN_S), None
            if now > deadline:
                raise DiscoveryError(self._missing(now - started))
            if not told and now - started > TELL_AFTER_S:
                self._node.get_logger().warning(self._missing(now - started))
                told = True
            self._executor.spin_once(timeout_sec=0.1)

    def _missing(self, seconds: float) -> str:
        """Describes what the graph has instead of the detector."""
        nodes = sorted(
            f"{namespace.rstrip('/')}/{name}"
            for name, namespace in self._node.get_node_names_and_namespaces()
            if name != self._node.get_name()
        )
        text = f"no active detector listens on {self._topic} after {seconds:.0f} s: "
        if self._detector in nodes:
            return f"{text}{self._detector} is there, but inactive, or on another image topic"
        seen = ", ".join(nodes) or "none"
        return f"{text}nodes seen: {seen}; {discovery_hints(os.environ)}"

    def ask(
        self, frame: Frame, timeout: float, check: Callable[[], None] = lambda: None
    ) -> Answer | None:
        """Sends one frame and waits for all its outputs (lock-step).

        A node that restarts meanwhile gets the frame again.

        Args:
            frame: A frame of a bag.
            timeout: Seconds to wait in total.
            check: Called between waits; raises if waiting is pointless.

        Returns:
            The answer, or None if it did not come in time and the frame counts as lost.

        Raises:
            ImageError: The answer is not an image of the expected kind.
        """
        message = message_from_frame(frame)
        pending = self._pending[frame.stamp_ns] = _Pending()
        sent_at = -float("inf")
        deadline = time.monotonic() + timeout
        while frame.stamp_ns not in self._answers:
            now = time.monotonic()
            if now > deadline:
                del self._pending[frame.stamp_ns]
                return None
            if now - sent_at > self._resend_after and self._is_connected():
                self._publisher.publish(message)
                pending.sent += 1
                pending.started = sent_at = now
            check()
            self._executor.spin_once(timeout_sec=0.1)
        return self._answers.pop(frame.stamp_ns)

    def send(self, frame: Frame) -> None:
        """Publishes one frame without waiting (real time)."""
        pending = self._pending[frame.stamp_ns] = _Pending()
        pending.sent = 1
        self._publisher.publish(message_from_frame(frame))

    def collect(self, seconds: float) -> dict[int, Answer]:
        """Collects answers that have come or come within ``seconds``, by stamp."""
        end = time.monotonic() + seconds
        came = -1
        # Go on while messages come, even out of time: queues drop what is not taken from them.
        while (left := end - time.monotonic()) > 0 or self._came > came:
            came = self._came
            self._executor.spin_once(timeout_sec=max(0.0, left))
        answers, self._answers = self._answers, {}
        return answers

    def _is_connected(self) -> bool:
        return self._publisher.get_subscription_count() > 0 and all(
            subscription.get_publisher_count() > 0 for subscription in self._subscriptions
        )

    def _is_found(self) -> bool:
        """Tells whether the detector has found our subscriptions, and so makes its outputs.

        A server's answer only reaches clients that it has found, and a participant finds another
        one's endpoints in the order of their creation: an answer to the client, which was created
        last, shows that the subscriptions are found.
        """
        if any(answer.done() for answer in self._state_answers):
            return True
        due = time.monotonic() - self._asked_at > _ASK_AGAIN_S
        if due and self._state_client.service_is_ready():
            self._state_answers.append(self._state_client.call_async(GetState.Request()))
            self._asked_at = time.monotonic()
        return False

    def _receiver(self, name: str) -> Callable[[Image], None]:
        def receive(message: Image) -> None:
            self._came += 1
            stamp = nanoseconds_of(message.header)
            pending = self._pending.get(stamp)
            if pending is None:
                self.surplus += 1  # a second answer to a frame that was sent twice
                return
            pending.outputs[name] = _array(message, name)
            if len(pending.outputs) == len(_OUTPUTS):
                del self._pending[stamp]
                self._answers[stamp] = Answer(
                    labels=pending.outputs["labels"],
                    unit_score=pending.outputs["ood_score"],
                    mask=pending.outputs["open_set_mask"],
                    latency_ms=1e3 * (time.monotonic() - pending.started),
                    sent=pending.sent,
                )

        return receive


def message_from_frame(frame: Frame) -> Image | CompressedImage:
    """Converts a recorded message to a ROS message, bytes unchanged."""
    header = header_at(frame.stamp_ns, frame.frame_id)
    recorded = frame.image
    if isinstance(recorded, RawImage):
        message = Image(
            header=header,
            height=recorded.height,
            width=recorded.width,
            encoding=recorded.encoding,
            is_bigendian=recorded.is_bigendian,
            step=recorded.step,
        )
    else:
        message = CompressedImage(header=header, format=recorded.format)
    show_data(message, recorded.data)
    return message


def _array(message: Image, name: str) -> np.ndarray:
    """Returns labels or a mask as uint8; a score as float32, whatever its encoding."""
    is_score = name == "ood_score"
    dtypes = {k: v for k, (v, _) in SCORE_ENCODINGS.items()} if is_score else {"mono8": np.uint8}
    shape = (message.height, message.width)
    dtype = dtypes.get(message.encoding)
    if dtype is None or len(message.data) != np.dtype(dtype).itemsize * shape[0] * shape[1]:
        raise ImageError(
            f"~/{name}: unexpected {message.encoding} image, {len(message.data)} bytes for {shape}"
        )
    values = np.frombuffer(message.data, dtype).reshape(shape)
    return decode_score(values, message.encoding) if is_score else values


class AnswerFile:
    """Labels and scores of answers by stamp, in a temporary file.

    The answers of a minute of film would not fit into memory.

    Args:
        folder: Folder with room for 5 bytes per pixel and answer.

    Raises:
        OutputError: No file can be created there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[int, tuple[int, tuple[int, ...]]] = {}
        try:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - until __exit__
        except OSError as error:
            raise self._failed(error) from error

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # unwritten data, which was reported before
            self._file.close()

    def __contains__(self, stamp_ns: int) -> bool:
        return stamp_ns in self._places

    def __len__(self) -> int:
        return len(self._places)

    def put(self, stamp_ns: int, answer: Answer) -> None:
        """Stores an answer, replacing an earlier one with the same stamp.

        Raises:
            OutputError: It cannot be written, for instance on a full disk.
        """
        try:
            place = self._file.seek(0, 2)
            for array in (answer.labels, answer.unit_score):
                self._file.write(np.ascontiguousarray(array).data)
            self._file.flush()
        except OSError as error:
            raise self._failed(error) from error
        self._places[stamp_ns] = place, answer.labels.shape

    def get(self, stamp_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns labels and score as they were stored.

        Returns:
            (H, W) uint8 and (H, W) float32.
        """
        place, shape = self._places[stamp_ns]
        pixels = int(np.prod(shape))
        self._file.seek(place)
        content = self._file.read(5 * pixels)
        labels = np.frombuffer(content, np.uint8, pixels)
        score = np.frombuffer(content, np.float32, pixels, offset=pixels)
        return labels.reshape(shape), score.reshape(shape)

    def _failed(self, error: OSError) -> OutputError:
        return OutputError(
            f"cannot keep the node's answers in {self._folder}: {error.strerror or error}"
        )

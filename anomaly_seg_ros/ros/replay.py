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
from std_msgs.msg import Header

from anomaly_seg_ros.bags.messages import RawImage
from anomaly_seg_ros.bags.reader import Frame
from anomaly_seg_ros.errors import DiscoveryError, ImageError, OutputError
from anomaly_seg_ros.ros.discovery import discovery_hints
from anomaly_seg_ros.ros.messages import show_data

# An unanswered frame is published again after this time: best effort may have lost it, and a
# restarted node has never seen it.
RESEND_AFTER_S = 15.0
# Discovery takes less than a second, on a very busy machine a few.
TELL_AFTER_S, FOUND_WITHIN_S = 5.0, 30.0
_ASK_AGAIN_S = 1.0
_OUTPUTS = ("labels", "ood_score", "open_set_mask")


@dataclass
class Answer:
    """What the node published about one frame.

    Attributes:
        labels: (H, W) uint8 trainIds.
        unit_score: (H, W) float32 in [0, 1].
        mask: (H, W) uint8, 255 = unknown.
        latency_ms: From publishing the frame to holding the last of its outputs.
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
        image_topic: The raw image topic that it listens on; for compressed frames
            ``/compressed`` is appended.
        compressed: Whether the frames are compressed.
        context: Of rclpy, already initialised; None takes the default one.
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
        """Leaves the graph; nothing but the counts may be used afterwards."""
        self._executor.shutdown()
        self._node.destroy_node()
        # A node stands in reference cycles, and as long as it does its DDS participant lives on.
        # Of more than 32 participants on a machine some do not find each other, and a process may
        # evaluate a hundred bags.
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
            timeout: Seconds.
            check: Called between waits; raises if waiting is in vain.
            is_active: Whether the detector is known to be active, so that only discovery is
                waited for. None if nothing is known of it: then the log tells early what is
                missing.

        Raises:
            DiscoveryError: Nobody appeared in time.
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
        """What the graph has instead of the detector."""
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

        A node that dies and comes back while it is waited for gets the frame again.

        Args:
            frame: Of a bag.
            timeout: Seconds in all.
            check: Called between waits; raises if waiting is in vain.

        Returns:
            The answer, or None if none came in time: the frame is lost.

        Raises:
            ImageError: The answer is no image of the expected kind.
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
        """Takes what has come, and what comes within ``seconds``; the answers by stamp."""
        end = time.monotonic() + seconds
        came = -1
        # Without time left as well: what nobody takes from the queues is overwritten by the next.
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
        """Whether the detector has found our subscriptions, too, and so makes its outputs.

        A server's answer reaches only whom it has found, and a participant finds what another one
        has in the order in which it was made: an answer to the client, which was made last, shows
        that the subscriptions are found.
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
            stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            pending = self._pending.get(stamp)
            if pending is None:
                self.surplus += 1  # a second answer to a frame that was sent again
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
    """The recorded message as a ROS message, bytes unchanged."""
    header = Header(frame_id=frame.frame_id)
    header.stamp.sec, header.stamp.nanosec = divmod(frame.stamp_ns, 10**9)
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
    dtypes = {"mono8": np.uint8, "32FC1": np.float32}
    shape = (message.height, message.width)
    dtype = dtypes.get(message.encoding)
    if dtype is None or len(message.data) != np.dtype(dtype).itemsize * shape[0] * shape[1]:
        raise ImageError(
            f"~/{name}: unexpected {message.encoding} image, {len(message.data)} bytes for {shape}"
        )
    return np.frombuffer(message.data, dtype).reshape(shape)


class AnswerFile:
    """Labels and scores of answers by stamp, in a file that is gone when it is closed.

    Args:
        folder: In which there is room for 5 bytes a pixel and answer.

    Raises:
        OutputError: No file can be made there.
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
        with contextlib.suppress(OSError):  # of what could not be written, which was told then
            self._file.close()

    def __contains__(self, stamp_ns: int) -> bool:
        return stamp_ns in self._places

    def __len__(self) -> int:
        return len(self._places)

    def put(self, stamp_ns: int, answer: Answer) -> None:
        """Stores an answer; a second one of the same stamp takes the place of the first.

        Raises:
            OutputError: It cannot be written, such as for want of room.
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
        """Labels and score as they were put.

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

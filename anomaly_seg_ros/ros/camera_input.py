# SPDX-License-Identifier: Apache-2.0
"""One camera's input: its subscriptions, and the counts and checks of its frames."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from rclpy.node import Node
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from anomaly_seg_ros.errors import ImageError
from anomaly_seg_ros.io.bit_depth import BitDepth
from anomaly_seg_ros.ros.arrival import Arrival, StampCheck, StampVerdict, receiver
from anomaly_seg_ros.ros.counters import FrameCounts, RateLimiter
from anomaly_seg_ros.ros.qos import QosEvents, input_profile
from anomaly_seg_ros.ros.qos_overrides import OF_PARAMETERS, overriding
from anomaly_seg_ros.ros.range_maps import GROUND, RangeMaps
from anomaly_seg_ros.ros.reports import CameraReport
from anomaly_seg_ros.ros.stamps import nanoseconds_of

LONGEST_REASON = 400  # characters
_PARAMETERS = ("image_transport", "qos_reliability", "qos_depth")


class CameraInput:
    """Subscribes to the images and the calibration of one camera, and keeps its counts.

    Args:
        node: Owner of the subscriptions.
        name: Prefix of the camera's topics; empty for the only camera of a node, on ``image``.
        qos_events: Told of publishers with incompatible QoS.
        deliver: Called in the executor's thread with this camera and each image that arrives.

    Attributes:
        counts: What became of its frames.
        limiter: Enforces ``max_rate``.
        depth: The bit depth of its 16-bit images.
        range_maps: Its depth images or disparities.
        camera_info: The newest calibration, or None.
        topic: The image topic, as remapped.
    """

    def __init__(
        self,
        node: Node,
        name: str,
        qos_events: QosEvents,
        deliver: Callable[[CameraInput, Arrival], None],
    ) -> None:
        self._node = node
        self.name = name
        self._qos_events = qos_events
        self._deliver = deliver
        self._subscriptions: list[Subscription] = []
        self.counts = FrameCounts()
        self.limiter = RateLimiter()
        self.range_maps = RangeMaps(
            node, lambda topic: node.resolve_topic_name(self._below(topic)), qos_events
        )
        self._forget()
        self.camera_info: CameraInfo | None = None
        self.topic = self._image_topic(node.get_parameter("image_transport").value)

    def subscribe(self) -> None:
        """Start listening, as the node's current parameters say."""
        values = {name: self._node.get_parameter(name).value for name in _PARAMETERS}
        transport = values["image_transport"]
        self.topic = self._image_topic(transport)
        self._forget()
        kind = Image if transport == "raw" else CompressedImage
        info_topic = self._node.resolve_topic_name(self._below("camera_info"))
        self._subscriptions = [
            self._node.create_subscription(
                message_type,
                topic,
                callback,
                input_profile(values["qos_reliability"], values["qos_depth"]),
                event_callbacks=self._qos_events.of_subscription(topic),
                qos_overriding_options=overriding(self._node, topic, OF_PARAMETERS),
            )
            for message_type, topic, callback in (
                (kind, self.topic, receiver(self._on_image)),
                (CameraInfo, info_topic, self._on_camera_info),
            )
        ]

    def unsubscribe(self) -> None:
        """Stop listening, if it was."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []
        self.range_maps.follow(GROUND)

    def report(self) -> CameraReport:
        """Report the current condition."""
        totals, faults = self.counts.totals(), self.counts.faults()
        silence = time.monotonic() - self._last_arrival
        return CameraReport(
            self.name,
            self.topic,
            silence,
            self._age,
            self.counts,
            totals,
            faults,
            other_clock=self._verdict.other_clock,
            range_remarks=self.depth.remarks(),
            notes=tuple(self._notes),
        )

    def note_fault(self, error: Exception) -> None:
        """Count by kind why a frame got no answer."""
        if isinstance(error, ImageError):
            kind = getattr(error, "kind", "bad image")
        else:
            kind = f"inference: {type(error).__name__}"
        reason = " ".join(str(error).split())  # OpenCV and torch write paragraphs
        if len(reason) > LONGEST_REASON:  # it quotes a message
            reason = f"{reason[:LONGEST_REASON]} ..."
        self.say_first(kind, reason)

    def say_first(self, kind: str, reason: str) -> None:
        """Count a fault, and log the first of its kind only: cameras repeat theirs."""
        if self.counts.add_fault(kind, reason):
            self._node.get_logger().warning(
                f"{self.topic}: {kind}: {reason} (said once, counted in /diagnostics)"
            )

    def note(self, text: str) -> None:
        """Log a remark once (none if empty) and keep it on /diagnostics; it is no fault."""
        if text and text not in self._notes:
            self._notes.append(text)
            self._node.get_logger().warning(f"{self.topic}: {text}")

    def _forget(self) -> None:
        """Reset what is known of the camera, which may be another one now."""
        self.depth = BitDepth()
        self._stamps = StampCheck()
        self._verdict = StampVerdict(None)
        self._notes: list[str] = []
        self._last_arrival = time.monotonic()
        self._age: float | None = None

    def _below(self, topic: str) -> str:
        return f"{self.name}/{topic}" if self.name else topic

    def _image_topic(self, transport: str) -> str:
        """Return the image topic; compressed ones are named as in image_transport."""
        base = self._below("image")
        topic = self._node.resolve_topic_name(base)
        if transport == "raw":
            return topic
        if topic == self._node.resolve_topic_name(base, only_expand=True):
            # The compressed topic may have a remapping of its own.
            return self._node.resolve_topic_name(f"{base}/compressed")
        return f"{topic}/compressed"

    def _on_image(self, arrival: Arrival) -> None:
        now = self._node.get_clock().now().nanoseconds
        verdict = self._stamps.judge(nanoseconds_of(arrival.message.header), now)
        if verdict.fault:
            reason = f"{verdict.reason}; the frame is processed all the same"
            self.say_first(verdict.fault, reason)
        tells = verdict.age is not None
        # Without a usable stamp, take the time that the message spent in queues here.
        self._age = verdict.age if tells else time.perf_counter() - arrival.time
        self._verdict, self._last_arrival = verdict, time.monotonic()
        self._deliver(self, replace(arrival, stamp_tells=tells))

    def _on_camera_info(self, message: CameraInfo) -> None:
        self.camera_info = message

"""Subscribers of the detector's outputs, which come and go and enter what they see."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image

from anomaly_seg_ros.ros.publishers import FRAME_TOPICS
from anomaly_seg_ros.ros.qos import SubscriptionEventCallbacks
from tools.fault_replay.answers import read_header, read_size
from tools.fault_replay.ledger import Header, Ledger
from tools.fault_replay.link import DEEP, DETECTOR

# The output that is watched nearly always, and by which every answer is known.
REFERENCE = "labels"
_MOST_GUESTS = 4


def _as_intended(event: object) -> None:
    """In place of rclpy's warning."""


class Viewers:
    """The reference and its guests.

    Args:
        node: Owns the subscriptions.
        ledger: Is told of every answer.
        before_answer: Called with the header first, since another process may have asked.

    Attributes:
        answers: How many the reference has heard.
    """

    def __init__(
        self, node: Node, ledger: Ledger, before_answer: Callable[[Header], None]
    ) -> None:
        self._node = node
        self._ledger = ledger
        self._before_answer = before_answer
        self.answers = 0
        self._reference: Subscription | None = None
        self._guests: list[Subscription] = []
        self._listeners: dict[Subscription, str] = {}
        self._number = 0

    @property
    def has_reference(self) -> bool:
        """Whether the reference is there."""
        return self._reference is not None

    def add_reference(self) -> None:
        """Subscribes to :data:`REFERENCE`."""
        self._reference = self._subscribe(REFERENCE, DEEP, is_reference=True)

    def add_all(self) -> None:
        """Subscribes to every output."""
        self._guests += [self._subscribe(topic, DEEP) for topic in FRAME_TOPICS]

    def remove_guests(self) -> None:
        """Takes all but the reference away."""
        while self._guests:
            self.remove(self._guests.pop())

    def remove_all(self) -> None:
        """Takes everybody away."""
        self.remove_guests()
        if self._reference is not None:
            self.remove(self._reference)
            self._reference = None

    def come_or_go(self, variant: int) -> None:
        """Adds a guest on some output with some QoS, or takes one away."""
        if len(self._guests) == _MOST_GUESTS or (self._guests and variant % 2):
            self.remove(self._guests.pop((variant >> 1) % len(self._guests)))
            return
        topic = list(FRAME_TOPICS)[(variant >> 1) % len(FRAME_TOPICS)]
        reliable = (variant >> 8) % 2
        policy = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        profile = QoSProfile(depth=(1, 10, 1000)[(variant >> 9) % 3], reliability=policy)
        self._guests.append(self._subscribe(topic, profile))

    def add_incompatible(self, variant: int) -> Subscription:
        """Adds a subscriber that asks for more than the detector offers; hears nothing."""
        topic = list(FRAME_TOPICS)[variant % len(FRAME_TOPICS)]
        profile = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        return self._subscribe(topic, profile)

    def remove(self, subscription: Subscription) -> None:
        """Takes a subscriber away."""
        self._node.destroy_subscription(subscription)
        self._ledger.forget(self._listeners.pop(subscription))

    def _subscribe(
        self, topic: str, profile: QoSProfile, is_reference: bool = False
    ) -> Subscription:
        self._number += 1
        listener = f"{topic} {self._number}"
        kind = FRAME_TOPICS[topic]
        has_header = "header" in kind.get_fields_and_field_types()

        def receive(serialised: bytes) -> None:
            if not has_header:
                self._ledger.answers[topic] += 1
                return
            fields, end = read_header(serialised)
            header = Header(*fields)
            self._before_answer(header)
            size = checksum = None
            if kind is Image:
                size, start = read_size(serialised, end)
                if topic == REFERENCE:
                    pixels = memoryview(serialised)[start : start + size[0] * size[1]]
                    checksum = zlib.crc32(pixels)
            self._ledger.answer(topic, listener, header, size, checksum)
            self.answers += is_reference

        subscription = self._node.create_subscription(
            kind,
            f"{DETECTOR}/{topic}",
            receive,
            profile,
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=_as_intended),
            raw=True,
        )
        self._listeners[subscription] = listener
        return subscription

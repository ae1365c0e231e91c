"""A subscriber in the detector's own process, which hears every answer that is published.

Outputs keep only their newest message, so another process may miss some. Fast DDS hands messages
to a reader of the same process while it writes them, and this one's queue is never full.
"""

from __future__ import annotations

from rclpy.context import Context
from rclpy.node import Node
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image

from tools.fault_replay.answers import read_header
from tools.fault_replay.link import DEEP, DETECTOR, NAMESPACE


class Witness:
    """Subscribes to the labels. Needs no executor: it takes what waits when it is asked.

    Args:
        context: The detector's.
    """

    def __init__(self, context: Context | None = None) -> None:
        self._node = Node(
            "fault_witness",
            context=context,
            namespace=NAMESPACE,
            start_parameter_services=False,
            enable_rosout=False,
        )
        self._subscription: Subscription | None = None

    def watch(self, on: bool) -> None:
        """Subscribes, or takes the subscription back."""
        if on and self._subscription is None:
            self._subscription = self._node.create_subscription(
                Image, f"{DETECTOR}/labels", lambda message: None, DEEP, raw=True
            )
        elif not on and self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def take(self) -> list[tuple[int, int, str]]:
        """The headers of all answers since the last call, as (sec, nanosec, frame id)."""
        headers: list[tuple[int, int, str]] = []
        if self._subscription is None:
            return headers
        handle = self._subscription.handle
        with handle:
            while (taken := handle.take_message(Image, True)) is not None:
                headers.append(read_header(taken[0])[0])
        return headers

    def close(self) -> None:
        """Leaves the graph."""
        self._node.destroy_node()

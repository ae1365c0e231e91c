# SPDX-License-Identifier: Apache-2.0
"""A node that does no work: the transport's floor for a frame in and three maps out.

Messages are taken and published as bytes, which is the least that rclpy does with them.

``python -m benchmarks.online.echo_node --ros-args -r __ns:=/echo``
"""

from __future__ import annotations

import struct
from contextlib import suppress

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image

# Behind the encapsulation: stamp, frame id (a string with its length), height, width.
_STAMP = slice(4, 12)
_RELIABLE_NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
_BYTES_A_PIXEL = {"labels": ("mono8", 1), "ood_score": ("32FC1", 4), "open_set_mask": ("mono8", 1)}


class EchoNode(Node):
    """Answers every frame with maps of zeros of the detector's sizes."""

    def __init__(self) -> None:
        super().__init__("echo")
        self._outputs = {
            name: self.create_publisher(Image, f"~/{name}", _RELIABLE_NEWEST)
            for name in _BYTES_A_PIXEL
        }
        self._answers: dict[str, bytes] = {}
        self._size: tuple[int, int] | None = None
        self.create_subscription(Image, "image", self._on_image, _RELIABLE_NEWEST, raw=True)

    def _on_image(self, serialised: bytes) -> None:
        size = frame_size(serialised)
        if size != self._size:
            self._answers = {name: zeros(name, size) for name in _BYTES_A_PIXEL}
            self._size = size
        stamp = serialised[_STAMP]
        for name, publisher in self._outputs.items():
            publisher.publish(stamp.join((self._answers[name][:4], self._answers[name][12:])))


def frame_size(serialised: bytes) -> tuple[int, int]:
    """(height, width) of a serialised Image."""
    (length,) = struct.unpack_from("<I", serialised, 12)
    # Numbers are aligned to their size, counted from the end of the encapsulation.
    at = 16 + -(-length // 4) * 4
    return struct.unpack_from("<II", serialised, at)


def zeros(name: str, size: tuple[int, int]) -> bytes:
    """An output's message of zeros, serialised."""
    encoding, width = _BYTES_A_PIXEL[name]
    message = Image(height=size[0], width=size[1], encoding=encoding, step=width * size[1])
    message.data.frombytes(bytes(width * size[0] * size[1]))
    return serialize_message(message)


if __name__ == "__main__":
    rclpy.init()
    with suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(EchoNode())
    rclpy.try_shutdown()

"""A peer of the detector that is made to be killed: a camera, or a viewer of one output.

    python -m tools.fault_replay.peer camera TOPIC FRAME_ID
    python -m tools.fault_replay.peer viewer TOPIC

A camera writes the number of each frame to stdout before it publishes it, so that whoever reads
it knows, however the camera ends, which frames can exist.
"""

from __future__ import annotations

import sys
import time

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

PERIOD_S = 0.02
HEIGHT, WIDTH = 32, 48
_RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)


def main() -> None:
    """Runs for ever."""
    role, topic, *frame_id = sys.argv[1:]
    rclpy.init()
    node = Node(f"fault_{role}_{time.monotonic_ns()}")
    if role == "viewer":
        node.create_subscription(Image, topic, lambda message: None, _RELIABLE)
        rclpy.spin(node)
        return
    publisher = node.create_publisher(Image, topic, _RELIABLE)
    message = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH)
    message.data.frombytes(bytes(3 * WIDTH * HEIGHT))
    (message.header.frame_id,) = frame_id
    number = 0
    while True:
        number += 1
        message.header.stamp.sec = number
        print(number, flush=True)
        publisher.publish(message)
        time.sleep(PERIOD_S)


if __name__ == "__main__":
    main()

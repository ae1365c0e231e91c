# SPDX-License-Identifier: Apache-2.0
"""What a frame costs between DDS and NumPy, by the ways in which rclpy takes and gives it.

    python -m benchmarks.message_copies --size 1024 2048 --frames 60

Publisher and subscribers share a process, so DDS hands the serialised message over in memory and
what is left is copying. The table has the median over the frames:

- in: ``message`` deserialises into a C struct, bytes and an array; ``raw`` (subscription with
  ``raw=True``) hands over the serialised bytes, not yet decoded, so it is a floor.
- out: ``frombytes`` fills the message's array; ``setter`` sets it to an array, as the node does
  where it must; ``CDR bytes`` joins header and pixels to the serialised message and publishes
  that; ``view`` shows the pixels to rclpy, as the node does where it can.

Each is measured with malloc as it is and, with ``keep``, after ``keep_freed_memory``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from tqdm import tqdm

from anomaly_seg_ros.ros.messages import image_message, set_data
from anomaly_seg_ros.system.malloc_tuning import keep_freed_memory

WARM_UP = 5
HEADER = Header(frame_id="camera_optical_frame")
RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
TIMEOUT_S = 10.0


def filled(array: np.ndarray, encoding: str) -> Image:
    """A message with its own copy of the pixels."""
    height, width = array.shape[:2]
    message = Image(height=height, width=width, encoding=encoding, step=array.strides[0])
    message.header = HEADER
    message.data.frombytes(memoryview(array).cast("B"))
    return message


def assigned(array: np.ndarray, encoding: str) -> Image:
    """A message with its own copy of the pixels, by its field's setter."""
    height, width = array.shape[:2]
    message = Image(height=height, width=width, encoding=encoding, step=array.strides[0])
    message.header = HEADER
    set_data(message, memoryview(array).cast("B"))
    return message


def shown(array: np.ndarray, encoding: str) -> Image:
    """A message that views the pixels."""
    return image_message(array, encoding, HEADER)


class Joined:
    """Serialised messages from a ready-made head: valid for one size, encoding and header."""

    def __init__(self) -> None:
        self._heads: dict[str, bytes] = {}

    def __call__(self, array: np.ndarray, encoding: str) -> bytes:
        """The bytes that ``serialize_message`` would give."""
        pixels = memoryview(array).cast("B")
        if encoding not in self._heads:
            whole = serialize_message(filled(array, encoding))
            self._heads[encoding] = whole[: whole.index(bytes(pixels[:64]))]
        return b"".join((self._heads[encoding], pixels))


def timed(work: Callable[[], object]) -> tuple[float, object]:
    """Milliseconds that ``work`` takes, and its result."""
    began = time.perf_counter()
    result = work()
    return 1e3 * (time.perf_counter() - began), result


def take(subscription: Subscription) -> float:
    """Milliseconds to take the newest message, once it is there."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        with subscription.handle:
            take_one = subscription.handle.take_message
            ms, taken = timed(lambda take_one=take_one: take_one(Image, subscription.raw))
        if taken is not None:
            return ms
        time.sleep(0.0005)
    raise TimeoutError("the message has not arrived")


def measure(size: tuple[int, int], frames: int) -> dict[str, float]:
    """Median milliseconds by direction, picture and way, such as ``in rgb8 raw``."""
    rgb = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    pictures = {
        "rgb8": rgb,
        "mono8": np.ascontiguousarray(rgb[..., 0]),
        "32FC1": rgb[..., 0].astype(np.float32),
    }
    ways_out = {
        "frombytes": filled,
        "setter": assigned,
        "CDR bytes": Joined(),
        "view": shown,
    }
    rclpy.init()
    node = Node("message_copies", start_parameter_services=False)
    publisher: Publisher = node.create_publisher(Image, "~/frames", RELIABLE)
    ways_in = {
        name: node.create_subscription(Image, "~/frames", id, RELIABLE, raw=name == "raw")
        for name in ("message", "raw")
    }
    while publisher.get_subscription_count() < len(ways_in):
        time.sleep(0.01)
    times: dict[str, list[float]] = defaultdict(list)
    for index in tqdm(range(frames + WARM_UP), disable=None):
        for encoding, picture in pictures.items():
            for way_out, make in ways_out.items():
                ms, _ = timed(lambda m=make, p=picture, e=encoding: publisher.publish(m(p, e)))
                times[f"out {encoding} {way_out}"].append(ms)
                # Whoever takes first finds the payload cold: they take turns.
                for way_in in sorted(ways_in, reverse=bool(index % 2)):
                    times[f"in {encoding} {way_in}"].append(take(ways_in[way_in]))
    node.destroy_node()
    rclpy.shutdown()
    return {name: statistics.median(values[WARM_UP:]) for name, values in times.items()}


def measured_apart(arguments: argparse.Namespace, keep: bool) -> dict[str, float]:
    """:func:`measure` in a process of its own: malloc's settings cannot be taken back."""
    command = [sys.executable, "-m", "benchmarks.message_copies", "--child", str(int(keep))]
    command += ["--size", *map(str, arguments.size), "--frames", str(arguments.frames)]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(output)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), metavar=("H", "W"))
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--out", type=Path, help="write the milliseconds as JSON")
    parser.add_argument("--child", type=int, choices=(0, 1), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        if arguments.child:
            keep_freed_memory()
        print(json.dumps(measure(tuple(arguments.size), arguments.frames)))
        return
    plain, kept = (measured_apart(arguments, keep) for keep in (False, True))
    print(f"{'':26}{'ms':>8}{'keep: ms':>10}{'ratio':>8}")
    for name in sorted(plain):
        ratio = plain[name] / kept[name]
        print(f"{name:26}{plain[name]:8.2f}{kept[name]:10.2f}{ratio:8.1f}")
    if arguments.out:
        document = {"malloc as it is": plain, "keep_freed_memory": kept}
        arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Frames from one process to another: what is lost, and how long the others take.

    python -m benchmarks.transport --size 1024 2048 --rates 10 30 --seconds 5

Each row is a publisher and a subscriber in processes of their own with the same transport:
``default`` is what the environment gives, ``profile`` adds the package's Fast DDS profile.
Latency runs from before ``publish`` to the subscriber's callback, CPU time is both processes'
for each frame that was sent, and MB/s count what arrived.

    ... --also LARGE_DATA FASTDDS_BUILTIN_TRANSPORTS=LARGE_DATA
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from anomaly_seg_ros.errors import DiscoveryError
from anomaly_seg_ros.ros.discovery import check_discovery
from anomaly_seg_ros.ros.messages import image_message
from anomaly_seg_ros.ros.transport import profile_variables
from anomaly_seg_ros.system.malloc_tuning import keep_freed_memory

TOPIC = "/benchmark/frames"
START_TIMEOUT_S = 60.0
DRAIN_S = 2.0
QOS = {
    "best_effort": QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT),
    "reliable": QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE),
}


def send(size: tuple[int, int], rate: float, seconds: float, qos: str) -> None:
    """Publish frames at ``rate`` Hz, stamped with the steady clock; print how many and how."""
    node = Node("sender", start_parameter_services=False)
    publisher = node.create_publisher(Image, TOPIC, QOS[qos])
    deadline = time.monotonic() + START_TIMEOUT_S
    while publisher.get_subscription_count() == 0:
        if time.monotonic() > deadline:
            sys.exit(1)
        time.sleep(0.01)
    time.sleep(0.5)  # the other side must have found us as well
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    began, used, publish_ms = time.monotonic(), time.process_time(), []
    for index in range(round(rate * seconds)):
        time.sleep(max(0.0, began + index / rate - time.monotonic()))
        header = Header()
        header.stamp.sec, header.stamp.nanosec = divmod(time.monotonic_ns(), 10**9)
        publisher.publish(image_message(picture, "rgb8", header))
        publish_ms.append((time.monotonic_ns() - _nanoseconds(header)) / 1e6)
    took = time.monotonic() - began
    time.sleep(DRAIN_S)
    used = time.process_time() - used
    report = {"sent": len(publish_ms), "seconds": took, "publish_ms": publish_ms, "cpu_s": used}
    print(json.dumps(report))


def receive(qos: str) -> None:
    """Print the latencies of everything that arrives until the input ends."""
    node = Node("receiver", start_parameter_services=False)
    latencies: list[float] = []

    def take(message: Image) -> None:
        latencies.append((time.monotonic_ns() - _nanoseconds(message.header)) / 1e6)

    node.create_subscription(Image, TOPIC, take, QOS[qos])
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    deadline, used = time.monotonic() + START_TIMEOUT_S, time.process_time()
    while node.count_publishers(TOPIC) or (not latencies and time.monotonic() < deadline):
        executor.spin_once(timeout_sec=0.1)
    print(json.dumps({"latencies": latencies, "cpu_s": time.process_time() - used}))


def _nanoseconds(header: Header) -> int:
    return header.stamp.sec * 10**9 + header.stamp.nanosec


def measure(
    arguments: argparse.Namespace, rate: float, qos: str, variables: Mapping[str, str]
) -> dict[str, float]:
    """One row of the table."""
    environment = {**os.environ, **variables}
    command = [sys.executable, "-m", "benchmarks.transport", "--qos", qos]
    command += ["--rates", str(rate), "--seconds", str(arguments.seconds)]
    command += ["--size", *map(str, arguments.size), "--role"]
    receiver, sender = (
        subprocess.Popen([*command, role], stdout=subprocess.PIPE, text=True, env=environment)
        for role in ("receive", "send")
    )
    answer = sender.communicate()[0]
    if sender.returncode:
        receiver.kill()
        receiver.wait()
        sys.exit(f"the two processes have not found each other in {START_TIMEOUT_S:.0f} s")
    sent = json.loads(answer)
    received = json.loads(receiver.communicate()[0])
    latencies = received["latencies"]
    arrived = len(latencies)
    frame_mb = 3 * arguments.size[0] * arguments.size[1] / 1e6
    return {
        "lost_percent": 100 * (1 - arrived / sent["sent"]),
        "median_ms": float(np.median(latencies)) if latencies else float("nan"),
        "p99_ms": float(np.percentile(latencies, 99)) if latencies else float("nan"),
        "publish_p99_ms": float(np.percentile(sent["publish_ms"], 99)),
        "cpu_ms": 1e3 * (sent["cpu_s"] + received["cpu_s"]) / sent["sent"],
        "mb_per_s": arrived * frame_mb / sent["seconds"],
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), metavar=("H", "W"))
    parser.add_argument("--rates", type=float, nargs="+", default=(10.0, 30.0), help="Hz")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each row")
    parser.add_argument(
        "--also",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "VARIABLE=VALUE"),
        help="another transport, by the variables of the environment that choose it",
    )
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    parser.add_argument("--role", choices=("send", "receive"), help=argparse.SUPPRESS)
    parser.add_argument("--qos", choices=tuple(QOS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        keep_freed_memory()
        rclpy.init()
        if arguments.role == "send":
            send(arguments.size, arguments.rates[0], arguments.seconds, arguments.qos)
        else:
            receive(arguments.qos)
        rclpy.shutdown()
        return
    try:
        check_discovery(os.environ)
    except DiscoveryError as error:
        sys.exit(f"transport: error: {error}")
    transports = {"default": {}, "profile": profile_variables(os.environ)}
    for name, *settings in arguments.also:
        transports[name] = dict(setting.split("=", 1) for setting in settings)
    columns = ("lost_percent", "median_ms", "p99_ms", "publish_p99_ms", "cpu_ms", "mb_per_s")
    print(f"{'QoS':12}{'Hz':>5} {'transport':12}" + "".join(f"{name:>16}" for name in columns))
    rows = []
    for qos in QOS:
        for rate in arguments.rates:
            for transport, variables in transports.items():
                row = measure(arguments, rate, qos, variables)
                rows.append({"qos": qos, "hz": rate, "transport": transport, **row})
                values = "".join(f"{row[name]:16.1f}" for name in columns)
                print(f"{qos:12}{rate:5.0f} {transport:12}{values}", flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

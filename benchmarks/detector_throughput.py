"""Frames a second through the node, topic to topic, beside the bare Segmenter in one run.

    python -m benchmarks.detector_throughput --model default --size 1024 2048 --frames 30

The frames are random pictures: the time depends on their size only. One frame is out at a time,
so this is the latency-bound rate; a camera that sends faster sees drops, not a longer latency.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import rclpy
from tqdm import tqdm

from anomaly_seg_ros.bags.messages import RawImage
from anomaly_seg_ros.bags.reader import Frame
from anomaly_seg_ros.devices import PRECISIONS
from anomaly_seg_ros.inference import Segmenter
from anomaly_seg_ros.ros.node_process import NodeProcess
from anomaly_seg_ros.ros.replay import Replayer

WARM_UP = 3


def random_frame(height: int, width: int, index: int) -> Frame:
    """A frame as a bag would hold it."""
    data = np.random.default_rng(index).integers(0, 256, height * width * 3, np.uint8)
    image = RawImage(height, width, "rgb8", False, 3 * width, data)
    return Frame((1_700_000_000 + index) * 10**9, "camera", image)


def bare(segmenter: Segmenter, frames: list[Frame], score: str) -> list[float]:
    """Milliseconds a frame, without ROS."""
    times = []
    for frame in frames:
        began = time.perf_counter()
        segmenter.predict(frame.image.to_rgb(), (score,), confidence=False)
        times.append(1e3 * (time.perf_counter() - began))
    return times[WARM_UP:]


def through_node(arguments: argparse.Namespace, frames: list[Frame]) -> list[float]:
    """Milliseconds a frame from publishing it to holding labels, score and mask."""
    with tempfile.TemporaryDirectory() as folder:
        namespace = f"/benchmark_{os.getpid()}"
        parameters = {
            "model": arguments.model,
            "device": arguments.device,
            "precision": arguments.precision,
            "qos_reliability": "reliable",
        }
        rclpy.init()
        try:
            with NodeProcess(namespace, parameters, Path(folder) / "node.log") as process:
                replayer = Replayer(process.name, f"{namespace}/image")
                replayer.wait_for_detector(120.0, process.check_alive)
                answers = [
                    replayer.ask(frame, 60.0, process.check_alive)
                    for frame in tqdm(frames, "through the node", unit="frame")
                ]
                replayer.close()
        finally:
            rclpy.try_shutdown()
    return [answer.latency_ms for answer in answers if answer is not None][WARM_UP:]


def main() -> None:
    """Prints both medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=PRECISIONS)
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), metavar=("H", "W"))
    parser.add_argument("--frames", type=int, default=20)
    arguments = parser.parse_args()
    frames = [random_frame(*arguments.size, index=i) for i in range(arguments.frames + WARM_UP)]
    segmenter = Segmenter.load(arguments.model, arguments.device, arguments.precision)
    alone = statistics.median(bare(segmenter, frames, segmenter.metadata.default_score))
    node = statistics.median(through_node(arguments, frames))
    height, width = segmenter.inference_size
    print(
        f"{segmenter.metadata.name} on {segmenter.device} ({segmenter.precision}), frames "
        f"{arguments.size[0]}x{arguments.size[1]}, network at {height}x{width}"
    )
    print(f"bare Segmenter  {alone:8.1f} ms  {1e3 / alone:6.2f} frames/s")
    print(f"topic to topic  {node:8.1f} ms  {1e3 / node:6.2f} frames/s  ratio {node / alone:.2f}")


if __name__ == "__main__":
    main()

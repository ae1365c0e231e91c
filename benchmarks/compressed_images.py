# SPDX-License-Identifier: Apache-2.0
"""Milliseconds to encode label maps as PNG and to decode JPEG frames, by the ways OpenCV has.

    python -m benchmarks.compressed_images --size 1024 2048 --repeats 40

The picture is the first of the demo clip with its labels, enlarged. The ways take turns in
random order, on one thread, so that a busy machine slows all of them alike.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable

import cv2
import numpy as np
from std_msgs.msg import Header

from anomaly_seg_ros.ros.messages import jpeg_message, png_message
from anomaly_seg_ros.system.malloc_tuning import keep_freed_memory
from anomaly_seg_ros.system.resources import asset_path
from benchmarks.stopwatch import milliseconds

JPEG_QUALITY = 90


def first_of(folder: str, flags: int, size: tuple[int, int], interpolation: int) -> np.ndarray:
    """The first image of a folder of the demo clip, at this (height, width)."""
    path = min(asset_path("demo_clip").joinpath(folder).iterdir())
    return cv2.resize(cv2.imread(str(path), flags), size[::-1], interpolation=interpolation)


def ways(size: tuple[int, int]) -> dict[str, Callable[[], object]]:
    """Name -> the work; encoders give the encoded bytes."""
    header = Header()
    labels = first_of("labels", cv2.IMREAD_GRAYSCALE, size, cv2.INTER_NEAREST)
    bgr = first_of("images", cv2.IMREAD_COLOR, size, cv2.INTER_LINEAR)
    rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    jpeg = np.frombuffer(jpeg_message(rgb, JPEG_QUALITY, header).data, np.uint8)

    def png(*parameters: int) -> Callable[[], object]:
        return lambda: cv2.imencode(".png", labels, parameters)[1]

    def decode_and_convert() -> np.ndarray:
        image = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)

    found = {
        "labels as PNG, the node's way": lambda: png_message(labels, header).data,
        "labels as PNG, OpenCV's default": png(),
        "labels as PNG, level 1": png(cv2.IMWRITE_PNG_COMPRESSION, 1),
        "labels as PNG, level 9": png(cv2.IMWRITE_PNG_COMPRESSION, 9),
        "picture as JPEG": lambda: jpeg_message(rgb, JPEG_QUALITY, header).data,
        "JPEG decoded to BGR, converted": decode_and_convert,
    }
    if hasattr(cv2, "IMREAD_COLOR_RGB"):
        found["JPEG decoded to RGB"] = lambda: cv2.imdecode(jpeg, cv2.IMREAD_COLOR_RGB)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), metavar=("H", "W"))
    parser.add_argument("--repeats", type=int, default=40)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    keep_freed_memory()  # as the node does
    work = ways(tuple(arguments.size))
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(arguments.repeats):
        for name, run in random.sample(list(work.items()), len(work)):
            times[name].append(milliseconds(run))
    print(f"{'':34}{'ms':>8}{'kB':>10}")
    for name, run in work.items():
        result = run()
        size = "" if "decoded" in name else f"{memoryview(result).nbytes / 1e3:10.1f}"
        print(f"{name:34}{statistics.median(times[name]):8.2f}{size}")


if __name__ == "__main__":
    main()

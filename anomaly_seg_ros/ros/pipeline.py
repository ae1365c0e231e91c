"""What the inference thread does with one message: read, segment, publish, take the time."""

from __future__ import annotations

import threading
import time
from collections import deque

from rclpy.clock import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from anomaly_seg_ros.inference import Segmenter
from anomaly_seg_ros.ros.messages import rgb_from_message
from anomaly_seg_ros.ros.parameters import Settings
from anomaly_seg_ros.ros.publishers import NEED_LABELS, NEED_SCORE, Outputs


class Latencies:
    """Thread-safe mean and maximum of named latencies over the newest ``frames`` frames."""

    def __init__(self, frames: int = 100) -> None:
        self._lock = threading.Lock()
        self._newest: deque[dict[str, float]] = deque(maxlen=frames)

    def add(self, milliseconds: dict[str, float]) -> None:
        """Add one frame's latencies; every frame has the same names."""
        with self._lock:
            self._newest.append(milliseconds)

    def summary(self) -> dict[str, tuple[float, float]]:
        """Name -> (mean, maximum) in milliseconds."""
        with self._lock:
            newest = list(self._newest)
        columns = {name: [frame[name] for frame in newest] for name in (newest or [{}])[-1]}
        return {name: (sum(v) / len(v), max(v)) for name, v in columns.items()}


class Pipeline:
    """Turns messages into published outputs.

    ``settings`` and ``camera_info`` may be replaced by another thread at any time: a frame reads
    each once, at its start.

    Args:
        segmenter: Does the inference.
        outputs: Where the results go.
        settings: In force until replaced.
        clock: The node's, which the stamps are compared with.
    """

    def __init__(
        self, segmenter: Segmenter, outputs: Outputs, settings: Settings, clock: Clock
    ) -> None:
        self.settings = settings
        self.camera_info: CameraInfo | None = None
        self.latencies = Latencies()
        self._segmenter = segmenter
        self._outputs = outputs
        self._clock = clock

    def process(self, message: Image | CompressedImage) -> str:
        """Work off one message.

        Returns:
            ``processed``, or ``unwatched`` if no output has a subscriber: then only the message
            itself was checked.

        Raises:
            FrameError: The message holds no usable image.
        """
        started = time.perf_counter()
        settings, camera_info = self.settings, self.camera_info
        image = rgb_from_message(message)
        wanted = self._outputs.wanted()
        if not wanted:
            return "unwatched"
        prediction = self._segmenter.predict(
            image,
            scores=(settings.score_method,) if NEED_SCORE & wanted else (),
            labels=bool(NEED_LABELS & wanted),
            confidence="confidence" in wanted,
        )
        header = message.header
        self._outputs.publish_frame(wanted, header, image, prediction, settings, camera_info)
        stamp = header.stamp.sec * 10**9 + header.stamp.nanosec
        milliseconds = {
            "inference": prediction.inference_ms,
            "processing": (time.perf_counter() - started) * 1e3,
            "pipeline": (self._clock.now().nanoseconds - stamp) / 1e6,
        }
        self._outputs.publish_latencies(wanted, milliseconds)
        self.latencies.add(milliseconds)
        return "processed"

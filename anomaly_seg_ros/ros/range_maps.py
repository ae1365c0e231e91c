# SPDX-License-Identifier: Apache-2.0
"""Depth images or disparities beside a camera's images, for the positions of unknown objects."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from anomaly_seg_ros.errors import ImageError
from anomaly_seg_ros.ros.qos import QosEvents, input_profile
from anomaly_seg_ros.ros.qos_overrides import overriding
from anomaly_seg_ros.ros.stamps import seconds_of

try:
    from stereo_msgs.msg import DisparityImage
except ImportError:  # a minimal apt ROS lacks it
    DisparityImage = None

GROUND, DEPTH, DISPARITY = "ground", "depth", "disparity"
SOURCES = (GROUND, DEPTH, DISPARITY)
TYPES = {DEPTH: Image, DISPARITY: DisparityImage}
# Enough for the time that a frame spends in the network, at 30 Hz.
KEPT = 10
# REP 118: 16UC1 are millimetres and 0 means no measurement.
_METRES = {"16UC1": (np.uint16, 1e-3), "mono16": (np.uint16, 1e-3), "32FC1": (np.float32, 1.0)}


class PointsError(ImageError):
    """A frame whose objects cannot be placed; ``kind`` is the class of fault, for counters."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = f"points: {kind}"


class RangeMaps:
    """Subscribes to the depth or the disparity of one camera while somebody needs it.

    Args:
        node: Owner of the subscription.
        resolve: Gives the full name of a topic beside the camera's images.
        qos_events: Told of publishers with incompatible QoS.
    """

    def __init__(self, node: Node, resolve: Callable[[str], str], qos_events: QosEvents) -> None:
        self._node = node
        self._resolve = resolve
        self._qos_events = qos_events
        self._subscription: Subscription | None = None
        self._source = GROUND
        self._newest: deque[Any] = deque(maxlen=KEPT)

    def follow(self, source: str) -> None:
        """Subscribe to what positions are taken from; :data:`GROUND` needs nothing."""
        if source == self._source:
            return
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
        self._newest.clear()
        self._source = source
        if TYPES.get(source) is not None:
            topic = self._resolve(source)
            self._subscription = self._node.create_subscription(
                TYPES[source],
                topic,
                self._keep,
                input_profile("best_effort", KEPT),
                event_callbacks=self._qos_events.of_subscription(topic),
                qos_overriding_options=overriding(self._node),
            )

    @property
    def topics(self) -> list[str]:
        """Full names of the topics that it may subscribe to."""
        return [self._resolve(source) for source in TYPES]

    def _keep(self, message: Any) -> None:
        self._newest.append(message)

    def near(self, header: Header, source: str, slop_s: float) -> Any:
        """Return the message whose stamp is nearest to that of a frame. From any thread.

        Raises:
            PointsError: There is none within ``slop_s`` seconds.
        """
        topic = self._resolve(source)
        messages = [
            (abs(seconds_of(message.header) - seconds_of(header)), message)
            for message in tuple(self._newest)
        ]
        if not messages:
            raise PointsError(f"no {source}", f"nothing has arrived on {topic}")
        apart, message = min(messages, key=lambda pair: pair[0])
        if apart > slop_s:
            raise PointsError(
                f"{source} of another stamp",
                f"the nearest {source} on {topic} is {apart:.3f} s from the frame, "
                f"depth_slop allows {slop_s:.3f} s",
            )
        return message


@dataclass(frozen=True)
class DepthReader:
    """Reads depths out of a message where they are asked for, not whole images.

    Args:
        values: (H, W) view of the message.
        metres: Turns some of its values into metres, NaN where nothing was measured.
    """

    values: np.ndarray
    metres: Callable[[np.ndarray], np.ndarray]

    def __call__(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Depths of pixels in metres, float64, NaN where nothing was measured."""
        return self.metres(self.values[rows, columns].astype(np.float64))


def read_depth(message: Image, shape: tuple[int, ...]) -> DepthReader:
    """Reads a depth image of REP 118.

    Raises:
        PointsError: It has another size than the frame, whose shape is given, or encoding.
    """
    values, unit = _view(message, shape, DEPTH)

    def metres(raw: np.ndarray) -> np.ndarray:
        return np.where(np.isfinite(raw) & (raw > 0), raw * unit, np.nan)

    return DepthReader(values, metres)


def read_disparity(message: DisparityImage, shape: tuple[int, ...]) -> tuple[DepthReader, float]:
    """Reads a disparity image; also returns focal length times baseline, in pixels metres.

    Raises:
        PointsError: It has another size than the frame, whose shape is given, or encoding, or
            neither focal length nor baseline.
    """
    values, _ = _view(message.image, shape, DISPARITY)
    focal_baseline = abs(message.f * message.t)
    if not 0 < focal_baseline < np.inf:
        raise PointsError("disparity", f"f is {message.f} and t is {message.t}: not calibrated")
    least = message.min_disparity

    def metres(raw: np.ndarray) -> np.ndarray:
        measured = np.isfinite(raw) & (raw > 0) & (raw >= least)
        return np.where(measured, focal_baseline / np.where(measured, raw, 1.0), np.nan)

    return DepthReader(values, metres), focal_baseline


def _view(image: Image, shape: tuple[int, ...], what: str) -> tuple[np.ndarray, float]:
    """(H, W) view of an image, and the metres of its unit."""
    if (image.height, image.width) != shape[:2]:
        raise PointsError(
            f"{what} of another size",
            f"the {what} is {image.width}x{image.height}, the frame {shape[1]}x{shape[0]}: "
            "it must be registered to the camera's image",
        )
    if image.encoding not in _METRES or (what == DISPARITY and image.encoding != "32FC1"):
        expected = "32FC1" if what == DISPARITY else "16UC1 (millimetres) or 32FC1 (metres)"
        raise PointsError(f"{what} encoding", f"the {what} is '{image.encoding}', not {expected}")
    kind, unit = _METRES[image.encoding]
    dtype = np.dtype(kind).newbyteorder(">" if image.is_bigendian else "<")
    needed = image.step * (image.height - 1) + image.width * dtype.itemsize
    if image.step < image.width * dtype.itemsize or len(image.data) < needed:
        raise PointsError(
            f"{what} data",
            f"the {what} has {len(image.data)} bytes in rows of {image.step}, too few for "
            f"{image.width}x{image.height} of {image.encoding}",
        )
    rows = (image.step, dtype.itemsize)
    return np.ndarray((image.height, image.width), dtype, image.data, strides=rows), unit

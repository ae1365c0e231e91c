# SPDX-License-Identifier: Apache-2.0
"""Sends frames to a detector, shows what it publishes, and asks for and sets its parameters."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.srv import DescribeParameters, GetParameters, SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from anomaly_seg_ros.errors import DiscoveryError
from anomaly_seg_ros.live.assembly import FrameAssembly
from anomaly_seg_ros.live.screen import IMAGE, OVERLAY, SCORE, Screen
from anomaly_seg_ros.ros.messages import image_message
from anomaly_seg_ros.ros.stamps import header_at, nanoseconds_of

try:
    from vision_msgs.msg import Detection2DArray
except ImportError:  # then the detector publishes no objects
    Detection2DArray = None

_NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
_RECEIVED = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
# Of sent frames that may still be answered; a slow detector drops many between two answers.
_KEPT_BYTES = 256_000_000
_ANSWER_S = 5.0


class ParameterState(NamedTuple):
    """A number among the detector's parameters, and the range of what it may be."""

    name: str
    value: float
    about: str
    minimum: float
    maximum: float


class DetectorClient:
    """A node beside one detector; a thread of its own receives.

    Args:
        detector: Fully qualified name of the detector.
        image_topic: The topic that it listens on.
        screen: Shows its messages.
    """

    def __init__(self, detector: str, image_topic: str, screen: Screen) -> None:
        self._screen = screen
        self._sent: dict[int, np.ndarray] = {}
        self._node = Node("live")
        self._images = self._node.create_publisher(Image, image_topic, _NEWEST)
        outputs = {
            "overlay/compressed": CompressedImage,
            "ood_heatmap/compressed": CompressedImage,
        }
        if Detection2DArray is not None:
            outputs["unknown_objects"] = Detection2DArray
        self._assembly = FrameAssembly(tuple(outputs))
        for name, kind in outputs.items():
            receive = partial(self._collect, name)
            self._node.create_subscription(kind, f"{detector}/{name}", receive, _RECEIVED)
        self._node.create_subscription(
            DiagnosticArray, "/diagnostics", screen.show_diagnostics, 10
        )
        self._describer, self._getter, self._setter = (
            self._node.create_client(kind, f"{detector}/{name}")
            for kind, name in (
                (DescribeParameters, "describe_parameters"),
                (GetParameters, "get_parameters"),
                (SetParameters, "set_parameters"),
            )
        )
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._ended = threading.Event()
        self._receiver = threading.Thread(target=self._receive, name="live", daemon=True)
        self._receiver.start()

    def close(self) -> None:
        """Leaves the graph."""
        self._ended.set()
        self._executor.wake()
        self._receiver.join()
        self._executor.shutdown()
        self._node.destroy_node()

    def send(self, rgb: np.ndarray) -> None:
        """Sends an (H, W, 3) uint8 RGB image, stamped with the present time."""
        now = time.time_ns()
        self._sent[now] = rgb
        for stamp in list(self._sent)[: -max(1, _KEPT_BYTES // rgb.nbytes)]:
            self._sent.pop(stamp, None)
        self._images.publish(image_message(rgb, "rgb8", header_at(now, "camera")))

    def parameters(self, names: Sequence[str]) -> list[ParameterState]:
        """What these parameters of the detector are now.

        Raises:
            DiscoveryError: It does not answer.
        """
        asked = list(names)
        told = self._ask(self._describer, DescribeParameters.Request(names=asked)).descriptors
        values = self._ask(self._getter, GetParameters.Request(names=asked)).values
        found = []
        for name, descriptor, value in zip(names, told, values, strict=True):
            limits = (descriptor.floating_point_range or descriptor.integer_range)[0]
            message = ParameterMessage(name=name, value=value)
            found.append(
                ParameterState(
                    name=name,
                    value=Parameter.from_parameter_msg(message).value,
                    about=descriptor.description,
                    minimum=limits.from_value,
                    maximum=limits.to_value,
                )
            )
        return found

    def set_parameter(self, name: str, value: float) -> str:
        """Sets one of the detector's parameters, which takes 10 for 10.0, too.

        Returns:
            Why the detector refuses it; empty if it does not.

        Raises:
            DiscoveryError: It does not answer.
        """
        parameter = Parameter(name, value=value)
        request = SetParameters.Request(parameters=[parameter.to_parameter_msg()])
        (result,) = self._ask(self._setter, request).results
        return "" if result.successful else str(result.reason)

    def _ask(self, client: Any, request: Any) -> Any:
        """Waits for an answer, which the other thread receives."""
        answered = threading.Event()
        if client.service_is_ready():
            future = client.call_async(request)
            future.add_done_callback(lambda _: answered.set())
            if answered.wait(_ANSWER_S):
                return future.result()
            client.remove_pending_request(future)
        raise DiscoveryError("the detector does not answer yet")

    def _receive(self) -> None:
        while not self._ended.is_set():
            self._executor.spin_once(timeout_sec=1.0)

    def _collect(self, name: str, message: Any) -> None:
        """Shows a frame once its last output has come."""
        stamp, arrived = nanoseconds_of(message.header), time.time_ns()
        parts = self._assembly.add(stamp, name, message)
        if parts is None:
            return
        rgb = self._sent.get(stamp)
        for older in [sent for sent in list(self._sent) if sent <= stamp]:
            self._sent.pop(older, None)  # answers come in order: the others were dropped
        if rgb is not None:
            _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
            self._screen.show_picture(IMAGE, stamp, jpeg.tobytes())
            self._screen.show_latency(stamp, (arrived - stamp) / 1e6)
        self._screen.show_picture(OVERLAY, stamp, bytes(parts["overlay/compressed"].data))
        self._screen.show_picture(SCORE, stamp, bytes(parts["ood_heatmap/compressed"].data))
        if "unknown_objects" in parts:
            self._screen.show_objects(parts["unknown_objects"])

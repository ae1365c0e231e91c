# SPDX-License-Identifier: Apache-2.0
"""What the tests of the node share: pictures, messages, and a node that talks to a detector."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import DescribeParameters, GetParameters, SetParametersAtomically
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from std_srvs.srv import SetBool

from anomaly_seg_ros.ros.detector import Detector
from anomaly_seg_ros.ros.messages import image_message
from anomaly_seg_ros.ros.publishers import FRAME_TOPICS

# Nothing here takes so long, but starting a process does where ten others want the same core. A
# test that can only fail says so after it.
TIMEOUT_S = 150.0
ASK_AGAIN_S = 2.0
TRANSITIONS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
    "cleanup": Transition.TRANSITION_CLEANUP,
}


def street(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 RGB: sky over road with noise, so that every pixel scores differently."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 80, (height, width, 3), np.uint8)
    picture[: height // 2] += np.array([60, 110, 170], np.uint8)
    picture[height // 2 :] += np.array([90, 85, 80], np.uint8)
    return picture


def array_of(message: Image) -> np.ndarray:
    dtype, channels = {
        "mono8": (np.uint8, 1),
        "mono16": (np.uint16, 1),
        "32FC1": (np.float32, 1),
        "rgb8": (np.uint8, 3),
    }[message.encoding]
    assert message.step == message.width * channels * np.dtype(dtype).itemsize  # unpadded
    data = np.frombuffer(message.data, dtype).reshape(message.height, message.width, channels)
    return data[..., 0] if channels == 1 else data


def stamped(seconds: float, frame_id: str = "camera_optical_frame") -> Header:
    """A header at this time."""
    header = Header(frame_id=frame_id)
    header.stamp.sec = int(seconds)
    header.stamp.nanosec = round((seconds - int(seconds)) * 1e9)
    return header


def seconds_of(message: object) -> float:
    """The stamp of a message in seconds."""
    return message.header.stamp.sec + message.header.stamp.nanosec / 1e9


class Probe(Node):
    """Talks to a detector from outside, over DDS, as any other node would."""

    def __init__(self, context: Context, image_type: type = Image, topic: str = "/image") -> None:
        super().__init__("probe", context=context, start_parameter_services=False)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self)
        # Type by type what arrived, in order.
        self.received: dict[str, list] = {}
        self.images = self.create_publisher(image_type, topic, 10)
        self.infos = self.create_publisher(CameraInfo, "/camera_info", 10)
        self._detector_clients: dict[str, object] = {}
        self.diagnostics: list[DiagnosticArray] = []
        self.create_subscription(DiagnosticArray, "/diagnostics", self.diagnostics.append, 10)

    def listen(self, *topics: str, qos: QoSProfile | int = 10) -> None:
        """Subscribe to these outputs of the detector."""
        for topic in topics:
            arrived = self.received.setdefault(topic, [])
            self.create_subscription(
                FRAME_TOPICS[topic], f"/detector/{topic}", arrived.append, qos
            )

    def spin_until(self, condition: Callable[[], object], what: str = "") -> object:
        """Spin until the condition holds; its value. Fails after TIMEOUT_S."""
        deadline = time.monotonic() + TIMEOUT_S
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {TIMEOUT_S:.0f} s: {what or condition}")
            self._executor.spin_once(timeout_sec=0.05)
        return value

    def spin_for(self, seconds: float) -> None:
        """Spin for a while, for what must not arrive."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def wait_connected(self) -> None:
        """Until the detector is subscribed to the images, and its outputs are found."""
        self.spin_until(self.images.get_subscription_count, "the detector subscribes")
        for topic in self.received:
            self.spin_until(
                lambda topic=topic: self.count_publishers(f"/detector/{topic}"), f"no {topic}"
            )

    def send(self, message: object) -> None:
        """Publish an image message."""
        self.images.publish(message)

    def wait_for(self, topic: str, seconds: float) -> object:
        """The message on an output with this stamp."""

        def find() -> object:
            found = [m for m in self.received[topic] if abs(seconds_of(m) - seconds) < 1e-9]
            return found[-1] if found else None

        return self.spin_until(find, f"{topic} with stamp {seconds}")

    def segment(self, image: np.ndarray, seconds: float) -> None:
        """Send an rgb8 frame."""
        self.send(image_message(image, "rgb8", stamped(seconds)))

    def call(self, kind: type, name: str, request: object) -> object:
        """Call a service of the detector and wait for its answer."""
        client = self._detector_clients.get(name)
        if client is None:
            client = self._detector_clients[name] = self.create_client(kind, f"/detector/{name}")
        self.spin_until(client.service_is_ready, f"service {name}")
        futures = [client.call_async(request)]
        asked = time.monotonic()

        def answered() -> object:
            nonlocal asked
            # Ready means that we found the service. It drops the answer while it has not found us,
            # which only a detector in another process can be late with: harmless to ask it again.
            if name.startswith("get_") and time.monotonic() - asked > ASK_AGAIN_S:
                futures.append(client.call_async(request))
                asked = time.monotonic()
            return next((future for future in futures if future.done()), None)

        return self.spin_until(answered, f"answer of {name}").result()

    def change_state(self, transition: str) -> bool:
        """Ask for a lifecycle transition; whether it was made."""
        request = ChangeState.Request()
        request.transition.id = TRANSITIONS[transition]
        return self.call(ChangeState, "change_state", request).success

    def state(self) -> str:
        """The lifecycle state by the detector's own service."""
        return self.call(GetState, "get_state", GetState.Request()).current_state.label

    def wait_for_state(self, state: str) -> None:
        """Until the detector is in this state."""
        self.spin_until(lambda: self.state() == state, f"state {state}")

    def set_parameters(self, **values: object) -> tuple[bool, str]:
        """Set parameters at once; (accepted, reason)."""
        request = SetParametersAtomically.Request()
        request.parameters = [Parameter(k, value=v).to_parameter_msg() for k, v in values.items()]
        result = self.call(SetParametersAtomically, "set_parameters_atomically", request).result
        return result.successful, result.reason

    def get_parameter_of_detector(self, name: str) -> object:
        """The value of one of the detector's parameters."""
        response = self.call(GetParameters, "get_parameters", GetParameters.Request(names=[name]))
        value = response.values[0]
        field = {
            ParameterType.PARAMETER_BOOL: "bool_value",
            ParameterType.PARAMETER_INTEGER: "integer_value",
            ParameterType.PARAMETER_DOUBLE: "double_value",
            ParameterType.PARAMETER_STRING: "string_value",
        }[value.type]
        return getattr(value, field)

    def describe(self, name: str) -> object:
        """The descriptor of one of the detector's parameters."""
        request = DescribeParameters.Request(names=[name])
        return self.call(DescribeParameters, "describe_parameters", request).descriptors[0]

    def enable(self, on: bool) -> str:
        """Call ~/enable; its message."""
        response = self.call(SetBool, "enable", SetBool.Request(data=on))
        assert response.success
        return response.message

    def diagnostic(self, task: str) -> dict[str, str]:
        """The newest values of one status, with its ``level`` and ``message``."""
        if not self.diagnostics:
            return {}
        for status in self.diagnostics[-1].status:
            if status.name.endswith(f": {task}"):
                values = {pair.key: pair.value for pair in status.values}
                return values | {"message": status.message, "level": status.level[0]}
        return {}

    def wait_for_diagnostic(self, task: str, key: str, value: str) -> dict[str, str]:
        """Until a value of a status begins with ``value``; all its values."""
        self.spin_until(
            lambda: str(self.diagnostic(task).get(key, "")).startswith(value),
            f"diagnostics {task}: {key} = {value}",
        )
        return self.diagnostic(task)


class DetectorHarness:
    """A detector in this process, spun by a thread, and a probe beside it."""

    def __init__(self, parameters: dict[str, object], words: Sequence[str] = ()) -> None:
        self._context = Context()
        rclpy.init(context=self._context)
        image_type = (
            CompressedImage if parameters.get("image_transport") == "compressed" else Image
        )
        topic = "/image/compressed" if image_type is CompressedImage else "/image"
        self.probe = Probe(self._context, image_type, topic)
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        self.node = Detector(
            context=self._context, parameter_overrides=overrides, cli_args=list(words)
        )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def _spin(self) -> None:
        while not self._stop.is_set():
            self._executor.spin_once(timeout_sec=1.0)

    def __getattr__(self, name: str) -> object:
        return getattr(self.probe, name)

    def wait_connected(self) -> None:
        """Until both sides have found each other on every topic that is listened to."""
        self.probe.wait_connected()

        def wanted() -> set[str]:
            return {
                f"{camera.name}/{topic}".lstrip("/")
                for camera, outputs in self.node._outputs.items()
                for topic in outputs.wanted()
            }

        self.probe.spin_until(
            lambda: wanted() >= self.probe.received.keys(), "the detector finds our subscriptions"
        )

    def close(self) -> None:
        """End the detector and the probe."""
        # rclpy's executor breaks in its thread when another one shuts it down meanwhile.
        self._stop.set()
        self._executor.wake()
        self._thread.join()
        self._executor.shutdown()
        if self.node.state != "finalized":
            self.node.trigger_shutdown()
        self.node.destroy_node()
        self.probe.destroy_node()
        rclpy.shutdown(context=self._context)
        # Nodes stand in reference cycles, and as long as they do their DDS participant lives on.
        # Of more than 32 participants on a machine some do not find each other.
        node = weakref.ref(self.node)
        self.node = self.probe = self._executor = self._thread = None
        gc.collect()
        assert node() is None, "something still holds the detector"


BEST_EFFORT = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)

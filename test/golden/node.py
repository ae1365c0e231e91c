# SPDX-License-Identifier: Apache-2.0
"""A detector in a process of its own and a client beside it, by names of the ROS graph alone."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    ListParameters,
    SetParametersAtomically,
)
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy

TIMEOUT_S = 150.0
# There with some ROS distributions, or with vision_msgs.
OF_INSTALLATION = (
    *("label_info", "unknown_objects", "get_type_description", "start_type_description_service"),
)
QOS = "qos_overrides."
SETTLED_S = 2.0  # the graph is complete when nothing was added for so long
RESEND_S = 2.0
RELIABLE = QoSProfile(depth=20, reliability=ReliabilityPolicy.RELIABLE)
TRANSITIONS = {"configure": 1, "cleanup": 2, "activate": 3, "deactivate": 4}  # lifecycle_msgs


class Client:
    """Talks to ``<namespace>/detector``."""

    def __init__(self, context: Context, namespace: str) -> None:
        self.namespace = namespace
        self._node = Node("golden", context=context, start_parameter_services=False)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self._node)
        self._clients: dict[str, Any] = {}
        self.process: subprocess.Popen[bytes] | None = None  # whose end ends all waiting
        self.diagnostics: list[DiagnosticArray] = []
        self._node.create_subscription(
            DiagnosticArray, "/diagnostics", self.diagnostics.append, 10
        )

    def close(self) -> None:
        self._executor.shutdown()
        self._node.destroy_node()

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Spins until the condition holds; its value."""
        deadline = time.monotonic() + TIMEOUT_S
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {TIMEOUT_S:.0f} s: {what}")
            if self.process is not None and self.process.poll() is not None:
                raise TimeoutError(f"the node has ended, before: {what}")
            self._executor.spin_once(timeout_sec=0.05)
        return value

    def call(self, kind: type, name: str, request: Any) -> Any:
        """The answer of a service of the detector; what only reads is asked again if unheard."""
        if name not in self._clients:
            path = f"{self.namespace}/detector/{name}"
            self._clients[name] = self._node.create_client(kind, path)
        client = self._clients[name]
        self.until(client.service_is_ready, f"service {name}")
        futures = [client.call_async(request)]
        asked = time.monotonic()

        def answered() -> Any:
            nonlocal asked
            if not name.startswith(("set_", "change_")) and time.monotonic() - asked > RESEND_S:
                futures.append(client.call_async(request))
                asked = time.monotonic()
            return next((future for future in futures if future.done()), None)

        return self.until(answered, f"answer of {name}").result()

    def wait_for_state(self, state: str) -> None:
        def label() -> str:
            return self.call(GetState, "get_state", GetState.Request()).current_state.label

        self.until(lambda: label() == state, f"state {state}")

    def change_state(self, transition: str) -> None:
        request = ChangeState.Request()
        request.transition.id = TRANSITIONS[transition]
        if not self.call(ChangeState, "change_state", request).success:
            raise RuntimeError(f"{transition} failed")

    def set(self, **values: object) -> str:
        """The reason for which the values are refused; empty if they are not."""
        request = SetParametersAtomically.Request()
        request.parameters = [Parameter(k, value=v).to_parameter_msg() for k, v in values.items()]
        result = self.call(SetParametersAtomically, "set_parameters_atomically", request).result
        return "" if result.successful else result.reason or "refused without a word"

    def parameters(self) -> dict[str, Any]:
        """Name -> type, value, description, range and the rest of the descriptor."""
        names = [n for n in self._parameter_names() if not n.startswith(QOS)]
        request = DescribeParameters.Request(names=names)
        described = self.call(DescribeParameters, "describe_parameters", request).descriptors
        request = GetParameters.Request(names=names)
        values = self.call(GetParameters, "get_parameters", request).values
        types = {getattr(ParameterType, k): k for k in dir(ParameterType) if "PARAMETER_" in k}
        table = {}
        for name, descriptor, value in zip(names, described, values, strict=True):
            ranges = [*descriptor.integer_range, *descriptor.floating_point_range]
            table[name] = {
                "type": types[descriptor.type].removeprefix("PARAMETER_").lower(),
                "default": rclpy.parameter.parameter_value_to_python(value),
                "description": descriptor.description,
                "constraints": descriptor.additional_constraints,
                "range": [[r.from_value, r.to_value, r.step] for r in ranges],
                "read only": descriptor.read_only,
                "dynamic typing": descriptor.dynamic_typing,
            }
        return table

    def qos_overrides(self) -> dict[str, str]:
        """Topic and publisher or subscription -> the policies that parameters may override."""
        names = [n for n in self._parameter_names() if n.startswith(QOS)]
        request = GetParameters.Request(names=names)
        values = self.call(GetParameters, "get_parameters", request).values
        table: dict[str, str] = {}
        for name, value in zip(names, values, strict=True):
            topic, entity, policy = name.removeprefix(QOS).rsplit(".", 2)
            told = f"{policy} {rclpy.parameter.parameter_value_to_python(value)}"
            key = f"{self.short(topic)} {entity}"
            table[key] = f"{table[key]}, {told}" if key in table else told
        return table

    def _parameter_names(self) -> list[str]:
        listed = self.call(ListParameters, "list_parameters", ListParameters.Request())
        # Names of topics have no dots.
        return sorted(
            name
            for name in listed.result.names
            if not name.removeprefix(QOS).split(".")[0].endswith(OF_INSTALLATION)
        )

    def graph(self) -> dict[str, Any]:
        """What the detector publishes, subscribes to and serves: types, and QoS of topics."""
        found, since = self._graph(), time.monotonic()
        deadline = since + TIMEOUT_S
        while not found["services"] or time.monotonic() - since < SETTLED_S:
            if time.monotonic() > deadline:
                raise TimeoutError("the graph does not settle")
            self._executor.spin_once(timeout_sec=0.1)
            now = self._graph()
            if now != found:
                found, since = now, time.monotonic()
        return found

    def _graph(self) -> dict[str, Any]:
        node, me = self._node, ("detector", self.namespace)
        try:
            published = node.get_publisher_names_and_types_by_node(*me)
            subscribed = node.get_subscriber_names_and_types_by_node(*me)
            served = node.get_service_names_and_types_by_node(*me)
        except RuntimeError:  # not found yet
            return {"publishers": {}, "subscriptions": {}, "services": {}}
        return {
            "publishers": {
                self.short(topic): self._described(types, node.get_publishers_info_by_topic(topic))
                for topic, types in published
                if not topic.endswith(OF_INSTALLATION)
            },
            "subscriptions": {
                self.short(topic): self._described(
                    types, node.get_subscriptions_info_by_topic(topic)
                )
                for topic, types in subscribed
            },
            "services": {
                self.short(name): ", ".join(types)
                for name, types in served
                if not name.endswith(OF_INSTALLATION)
            },
        }

    def _described(self, types: list[str], endpoints: Sequence[Any]) -> str:
        """Types and QoS; the graph does not tell history and depth."""
        mine = [
            e.qos_profile
            for e in endpoints
            if (e.node_name, e.node_namespace) == ("detector", self.namespace)
        ]
        qos = [f"{p.reliability.name} {p.durability.name} {p.liveliness.name}" for p in mine]
        return ", ".join([*types, *qos])

    def short(self, name: str) -> str:
        """``~/labels`` for the detector's own names, ``image`` for others of its namespace."""
        own = f"{self.namespace}/detector/"
        if name.startswith(own):
            return "~/" + name.removeprefix(own)
        return name.removeprefix(f"{self.namespace}/")

    def diagnostic_keys(self) -> dict[str, list[str]]:
        """Status -> its keys, of a message that is still to come.

        Those of faults and conditions are left out: whether a busy machine has them is chance.
        """
        self.diagnostics.clear()

        def mine() -> dict[str, list[str]]:
            return {
                status.name.partition(": ")[2]: [
                    pair.key for pair in status.values if ":" not in pair.key
                ]
                for message in self.diagnostics
                for status in message.status
                if self.namespace in status.name
            }

        return self.until(mine, "diagnostics")

    def digests(self, frames: Sequence[tuple[Any, Any]], cameras: Sequence[str]) -> dict[str, Any]:
        """Topic -> stamp -> digest of the answer; frames are sent one by one, to each camera.

        Args:
            frames: Image and CameraInfo messages.
            cameras: Names; one empty name for a node of one camera.
        """
        topics = {
            topic: content.partition(", ")[0]
            for topic, content in self.graph()["publishers"].items()
            if topic.startswith("~/")
            and not topic.startswith("~/transition_event")
            # Without a mounting there is no answer.
            and not topic.endswith("/unknown_points")
        }
        came: dict[str, dict[str, str]] = {topic: {} for topic in topics}
        for topic, kind in topics.items():
            path = topic.replace("~", f"{self.namespace}/detector", 1)
            self._node.create_subscription(_type(kind), path, _recorder(came[topic]), RELIABLE)
        kind = type(frames[0][0])
        suffix = "/compressed" if kind.__name__ == "CompressedImage" else ""
        for camera in cameras:
            base = f"{self.namespace}/{camera}".rstrip("/")
            images = self._node.create_publisher(kind, f"{base}/image{suffix}", RELIABLE)
            info = self._node.create_publisher(type(frames[0][1]), f"{base}/camera_info", RELIABLE)
            self.until(images.get_subscription_count, "the detector subscribes to the images")
            self.until(info.get_subscription_count, "the detector subscribes to the camera")
            of_camera = [t for t in topics if not camera or t.startswith(f"~/{camera}/")]
            for image, camera_info in frames:
                info.publish(camera_info)
                self._ask(images, image, [came[t] for t in of_camera if "/debug/" not in t])
            for topic in of_camera:
                self.until(lambda topic=topic: came[topic], topic)
        for topic in topics:
            if "/debug/" in topic:
                came[topic] = {"every stamp": "time"}
        return came

    def _ask(self, images: Any, image: Any, outputs: list[dict[str, str]]) -> None:
        """Sends it until it is answered everywhere: at first not all have found each other."""
        stamp, sent = _stamp(image), -RESEND_S

        def answered() -> bool:
            nonlocal sent
            if time.monotonic() - sent > RESEND_S:
                images.publish(image)
                sent = time.monotonic()
            return all(stamp in output for output in outputs)

        self.until(answered, f"all answers to {stamp}")


@contextlib.contextmanager
def detector(
    command: Sequence[str], folder: Path, parameters: dict[str, str] | None = None
) -> Iterator[Client]:
    """Starts the node and ends it; in the namespace ``/golden_<pid>``.

    Args:
        command: That starts the node, without arguments.
        folder: Receives ``node.log``.
        parameters: In YAML, as behind ``-p``.
    """
    namespace = f"/golden_{os.getpid()}"
    words = [*command, "--ros-args", "-r", f"__ns:={namespace}"]
    for name, value in (parameters or {}).items():
        words += ["-p", f"{name}:={value}"]
    context = Context()
    rclpy.init(context=context)
    with (folder / "node.log").open("ab") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    client = Client(context, namespace)
    client.process = process
    try:
        client.wait_for_state("active")
        yield client
    except TimeoutError as error:
        said = (folder / "node.log").read_text(errors="replace")
        raise TimeoutError(f"{error}; the node said: {said}") from error
    finally:
        client.close()
        rclpy.shutdown(context=context)
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            print("the node did not end by SIGINT", file=sys.stderr)


def _type(name: str) -> type:
    package, _, kind = name.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), kind)


def _stamp(message: Any) -> str:
    return f"{message.header.stamp.sec}.{message.header.stamp.nanosec:09d}"


def _recorder(into: dict[str, str]) -> Callable[[Any], None]:
    def record(message: Any) -> None:
        if hasattr(message, "header"):
            into[_stamp(message)] = digest(message)
        else:
            into["unstamped"] = ""

    return record


def digest(message: Any) -> str:
    """sha256 of all fields of a message, in the order of its definition."""
    summed = hashlib.sha256()

    def add(value: Any) -> None:
        if hasattr(value, "get_fields_and_field_types"):
            for name in value.get_fields_and_field_types():
                summed.update(f"{name}:".encode())
                add(getattr(value, name))
        elif hasattr(value, "tobytes"):
            summed.update(value.tobytes())
        elif isinstance(value, (list, tuple)):
            for item in value:
                add(item)
        else:
            summed.update(f"{value!r};".encode())

    add(message)
    return summed.hexdigest()

# SPDX-License-Identifier: Apache-2.0
"""The replay's own side of the graph: services, diagnostics and subscribers of the outputs."""

from __future__ import annotations

import gc
import os
import time
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.srv import GetParameters, SetParametersAtomically
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from rclpy.task import Future
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool

from anomaly_seg_ros.errors import AnomalySegError
from anomaly_seg_ros.ros.publishers import FRAME_TOPICS
from anomaly_seg_ros.ros.qos import SubscriptionEventCallbacks
from tools.fault_replay.ledger import OUTCOMES, Header, Ledger
from tools.fault_replay.messages import read_header, read_size

# The namespace of the detector under test, which must not meet another detector of this network
# or of another run. Processes that a run starts inherit it.
NAMESPACE = os.environ.setdefault("FAULTS_NAMESPACE", f"/faults_{os.getpid()}")
DETECTOR = f"{NAMESPACE}/detector"
IMAGE_TOPIC = f"{NAMESPACE}/image"
CAMERA_INFO_TOPIC = f"{NAMESPACE}/camera_info"
# Deeper than the number of frames on their way, see messages.MOST_OUTSTANDING.
DEEP = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
# After this long, far longer than anything takes on a busy machine, the node counts as hung.
WATCHDOG_S = 60.0
_ASK_AGAIN_S = 1.0
CONFIGURE, ACTIVATE = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE
DEACTIVATE, CLEANUP = Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP
# The output that is watched nearly always, and by which every answer is known.
REFERENCE = "labels"
_MOST_GUESTS = 4


class HungError(AnomalySegError):
    """The detector has not done in time what it must."""


class Link:
    """A node that calls the detector and hears its diagnostics.

    Args:
        check: Called while waiting; raises if waiting is in vain.

    Attributes:
        node: The ROS node, for publishers and subscriptions.
        totals: The detector's newest counts, by outcome.
        state: Its lifecycle state by the newest diagnostics.
        reports: Number of diagnostics received.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._context = Context()
        rclpy.init(context=self._context)
        self.node = Node("fault_injector", namespace=NAMESPACE, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._check = check
        self.totals: Counter[str] = Counter()
        self.state = ""
        self.reports = 0
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_report, 100)
        self._services = {
            name: self.node.create_client(kind, f"{DETECTOR}/{name}")
            for name, kind in (
                ("change_state", ChangeState),
                ("set_parameters_atomically", SetParametersAtomically),
                ("get_parameters", GetParameters),
                ("enable", SetBool),
                ("get_state", GetState),  # found last by the detector, see wait_for_services
            )
        }

    def close(self) -> None:
        """Leaves the graph."""
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)
        del self._executor, self.node, self._services
        gc.collect()  # reference cycles keep a node and its DDS participant alive

    def wait_for_services(self) -> None:
        """Waits until this node and the detector have found each other."""
        for name, client in self._services.items():
            self.spin_until(client.service_is_ready, f"service {name}")
        # A server drops its answer to a client that it has not found yet, and finds clients in
        # the order in which they were created.
        futures: list[Future] = []
        while not any(future.done() for future in futures):
            futures.append(self._services["get_state"].call_async(GetState.Request()))
            self.spin_while(lambda: not any(f.done() for f in futures), _ASK_AGAIN_S)
            self._check()

    def spin(self, seconds: float) -> None:
        """Spins for so many seconds."""
        self.spin_while(lambda: True, seconds)

    def spin_while(self, condition: Callable[[], bool], seconds: float) -> None:
        """Spins while a condition holds, for at most so many seconds."""
        end = time.monotonic() + seconds
        while condition() and (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def spin_until(self, condition: Callable[[], object], what: str) -> None:
        """Spins until a condition holds.

        Raises:
            HungError: It does not hold within ``WATCHDOG_S``.
        """
        deadline = time.monotonic() + WATCHDOG_S
        while not condition():
            self._check()
            if time.monotonic() > deadline:
                raise HungError(
                    f"waited {WATCHDOG_S:.0f} s in vain: {what} (the node is {self.state}, counts "
                    f"{dict(self.totals)})"
                )
            self._executor.spin_once(timeout_sec=0.02)

    def next_report(self, state: str | None = None) -> None:
        """Waits for diagnostics from after this call, of a lifecycle state if one is given."""
        due = self.reports + 2  # the first to arrive may be from before the call
        self.spin_until(
            lambda: self.reports >= due and state in (None, self.state),
            f"diagnostics of state {state}",
        )

    def call(self, name: str, request: object) -> Any:
        """Calls a service of the detector and returns its response."""
        future = self._services[name].call_async(request)
        self.spin_until(future.done, f"answer of {name}")
        return future.result()

    def change_state(self, transition: int, label: str = "") -> bool:
        """Requests a transition; returns whether it was made."""
        request = ChangeState.Request(transition=Transition(id=transition, label=label))
        return self.call("change_state", request).success

    def get_state(self) -> str:
        """The lifecycle state that the service reports."""
        return self.call("get_state", GetState.Request()).current_state.label

    def set_parameter(self, parameter: ParameterMessage) -> tuple[bool, str]:
        """Sets a parameter; returns whether it was accepted, and the reason if not."""
        request = SetParametersAtomically.Request(parameters=[parameter])
        result = self.call("set_parameters_atomically", request).result
        return result.successful, result.reason

    def set_value(self, name: str, value: object) -> tuple[bool, str]:
        """Sets a parameter to a Python value, see :meth:`set_parameter`."""
        return self.set_parameter(Parameter(name, value=value).to_parameter_msg())

    def get_value(self, name: str) -> str:
        """The value of a string parameter."""
        response = self.call("get_parameters", GetParameters.Request(names=[name]))
        return response.values[0].string_value

    def enable(self, on: bool) -> bool:
        """Calls ``~/enable``; returns whether it succeeded."""
        return self.call("enable", SetBool.Request(data=on)).success

    def _on_report(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            if status.name == f"{DETECTOR}: model":
                self.state = values["lifecycle_state"]
            elif status.name == f"{DETECTOR}: input":
                self.totals = Counter({n: int(values[n]) for n in ("received", *OUTCOMES)})
        self.reports += 1


class Viewers:
    """Subscribers of the outputs that enter every answer into the ledger.

    The reference subscribes to :data:`REFERENCE`; guests come and go on any output.

    Args:
        node: Owns the subscriptions.
        ledger: Receives the answers.
        before_answer: Called first with each header, since another process may have asked.

    Attributes:
        answers: Answers that the reference has heard.
    """

    def __init__(
        self, node: Node, ledger: Ledger, before_answer: Callable[[Header], None]
    ) -> None:
        self._node = node
        self._ledger = ledger
        self._before_answer = before_answer
        self.answers = 0
        self._reference: Subscription | None = None
        self._guests: list[Subscription] = []
        self._listeners: dict[Subscription, str] = {}
        self._number = 0

    @property
    def has_reference(self) -> bool:
        """Whether the reference is subscribed."""
        return self._reference is not None

    def add_reference(self) -> None:
        """Subscribes the reference."""
        self._reference = self._subscribe(REFERENCE, DEEP, is_reference=True)

    def add_all(self) -> None:
        """Adds a guest on every output."""
        self._guests += [self._subscribe(topic, DEEP) for topic in FRAME_TOPICS]

    def remove_all(self) -> None:
        """Removes guests and reference."""
        while self._guests:
            self.remove(self._guests.pop())
        if self._reference is not None:
            self.remove(self._reference)
            self._reference = None

    def come_or_go(self, variant: int) -> None:
        """Adds a guest on some output with some QoS, or removes one."""
        if len(self._guests) == _MOST_GUESTS or (self._guests and variant % 2):
            self.remove(self._guests.pop((variant >> 1) % len(self._guests)))
            return
        topic = list(FRAME_TOPICS)[(variant >> 1) % len(FRAME_TOPICS)]
        reliable = (variant >> 8) % 2
        policy = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        profile = QoSProfile(depth=(1, 10, 1000)[(variant >> 9) % 3], reliability=policy)
        self._guests.append(self._subscribe(topic, profile))

    def add_incompatible(self, variant: int) -> Subscription:
        """Adds a subscriber that requests more than the detector offers, so it hears nothing."""
        topic = list(FRAME_TOPICS)[variant % len(FRAME_TOPICS)]
        profile = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        return self._subscribe(topic, profile)

    def remove(self, subscription: Subscription) -> None:
        """Removes a subscriber."""
        self._node.destroy_subscription(subscription)
        self._ledger.forget(self._listeners.pop(subscription))

    def _subscribe(
        self, topic: str, profile: QoSProfile, is_reference: bool = False
    ) -> Subscription:
        self._number += 1
        listener = f"{topic} {self._number}"
        kind = FRAME_TOPICS[topic]
        has_header = "header" in kind.get_fields_and_field_types()

        def receive(serialised: bytes) -> None:
            if not has_header:
                self._ledger.answers[topic] += 1
                return
            header, end = read_header(serialised)
            self._before_answer(header)
            size = checksum = None
            if kind is Image:
                size, start = read_size(serialised, end)
                if topic == REFERENCE:
                    pixels = memoryview(serialised)[start : start + size[0] * size[1]]
                    checksum = zlib.crc32(pixels)
            self._ledger.answer(topic, listener, header, size, checksum)
            self.answers += is_reference

        silent = SubscriptionEventCallbacks(incompatible_qos=lambda event: None)
        name = f"{DETECTOR}/{topic}"
        subscription = self._node.create_subscription(
            kind, name, receive, profile, event_callbacks=silent, raw=True
        )
        self._listeners[subscription] = listener
        return subscription

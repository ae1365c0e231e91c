"""The injector's place in the graph: what it hears from the detector, and how it calls it."""

from __future__ import annotations

import gc
import os
import time
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
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from std_srvs.srv import SetBool

from anomaly_seg_ros.errors import AnomalySegError
from tools.fault_replay.ledger import OUTCOMES

# Of the detector under test, so that it meets no other one on this network, nor that of another
# run. The processes that a run starts inherit it.
NAMESPACE = os.environ.setdefault("FAULTS_NAMESPACE", f"/faults_{os.getpid()}")
DETECTOR = f"{NAMESPACE}/detector"
IMAGE_TOPIC = f"{NAMESPACE}/image"
CAMERA_INFO_TOPIC = f"{NAMESPACE}/camera_info"
# Deeper than what may be on its way, see sender.MOST_OUTSTANDING.
DEEP = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
# Far longer than anything takes on a busy machine: after it the node counts as hung.
WATCHDOG_S = 60.0
_ASK_AGAIN_S = 1.0
CONFIGURE, ACTIVATE = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE
DEACTIVATE, CLEANUP = Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP


class HungError(AnomalySegError):
    """The detector has not done in time what it must."""


class Link:
    """A node beside the detector.

    Args:
        check: Called while waiting; raises if waiting is in vain.

    Attributes:
        node: For publishers and subscriptions.
        totals: The detector's newest counts, by outcome.
        faults: Its newest counts of faults, by kind.
        state: Its lifecycle state by the newest diagnostics.
        reports: How many diagnostics have come.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._context = Context()
        rclpy.init(context=self._context)
        self.node = Node("fault_injector", namespace=NAMESPACE, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._check = check
        self.totals: Counter[str] = Counter()
        self.faults: dict[str, int] = {}
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
                ("get_state", GetState),  # the last that the detector finds: wait_for_services
            )
        }

    def close(self) -> None:
        """Leaves the graph."""
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)
        del self._executor, self.node, self._services
        gc.collect()  # a node stands in reference cycles, and with it its DDS participant

    def wait_for_services(self) -> None:
        """Until the detector is found, and has found us."""
        for name, client in self._services.items():
            self.spin_until(client.service_is_ready, f"service {name}")
        # A server drops its answer to a client that it has not found yet; it finds them in the
        # order in which they were made.
        futures: list[Future] = []
        while not any(future.done() for future in futures):
            futures.append(self._services["get_state"].call_async(GetState.Request()))
            self.spin_while(lambda: not any(f.done() for f in futures), _ASK_AGAIN_S)
            self._check()

    def spin(self, seconds: float) -> None:
        """Works for a while."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def spin_while(self, condition: Callable[[], bool], seconds: float) -> None:
        """Works while a condition holds, for so long at most."""
        end = time.monotonic() + seconds
        while condition() and (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def spin_until(self, condition: Callable[[], object], what: str) -> None:
        """Works until a condition holds.

        Raises:
            HungError: It does not within ``WATCHDOG_S``.
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
        """Until diagnostics from after this call have come, of a state if one is given.

        The first one that comes may be from before the call.
        """
        due = self.reports + 2
        self.spin_until(
            lambda: self.reports >= due and state in (None, self.state),
            f"diagnostics of state {state}",
        )

    def call(self, name: str, request: object) -> Any:
        """Calls a service of the detector; its response."""
        future = self._services[name].call_async(request)
        self.spin_until(future.done, f"answer of {name}")
        return future.result()

    def change_state(self, transition: int, label: str = "") -> bool:
        """Asks for a transition; whether it was made."""
        request = ChangeState.Request(transition=Transition(id=transition, label=label))
        return self.call("change_state", request).success

    def get_state(self) -> str:
        """The lifecycle state by the service."""
        return self.call("get_state", GetState.Request()).current_state.label

    def set_parameter(self, parameter: ParameterMessage) -> tuple[bool, str]:
        """Sets a parameter: whether it was accepted, and the reason if not."""
        request = SetParametersAtomically.Request(parameters=[parameter])
        result = self.call("set_parameters_atomically", request).result
        return result.successful, result.reason

    def set_value(self, name: str, value: object) -> tuple[bool, str]:
        """The same, of a Python value."""
        return self.set_parameter(Parameter(name, value=value).to_parameter_msg())

    def get_value(self, name: str) -> str:
        """The value of a parameter that is a string."""
        response = self.call("get_parameters", GetParameters.Request(names=[name]))
        return response.values[0].string_value

    def enable(self, on: bool) -> bool:
        """Calls ``~/enable``; whether it succeeded."""
        return self.call("enable", SetBool.Request(data=on)).success

    def _on_report(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            if status.name == f"{DETECTOR}: model":
                self.state = values["lifecycle_state"]
            elif status.name == f"{DETECTOR}: input":
                self.totals = Counter({n: int(values[n]) for n in ("received", *OUTCOMES)})
                self.faults = {
                    key.removeprefix("fault: "): int(value.partition(",")[0])
                    for key, value in values.items()
                    if key.startswith("fault: ")
                }
        self.reports += 1

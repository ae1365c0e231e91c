# SPDX-License-Identifier: Apache-2.0
"""Overrides of QoS by parameters such as ``qos_overrides./detector/labels.publisher.depth``."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSPolicyKind
from rclpy.qos_overriding_options import QoSOverridingOptions

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.io.safe_yaml_json import short_repr

PREFIX = "qos_overrides."
DEEPEST = 1000
# Policies that may be overridden, and the values of those that are words.
POLICIES = {
    QoSPolicyKind.HISTORY: ("keep_last", "keep_all"),
    QoSPolicyKind.DEPTH: (),
    QoSPolicyKind.RELIABILITY: ("reliable", "best_effort"),
    QoSPolicyKind.DURABILITY: ("volatile", "transient_local"),
}
# Of the input: set by qos_depth and qos_reliability, which may change while the node is inactive.
OF_PARAMETERS = (QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY)


def overriding(
    node: Node, topic: str = "", of_parameters: Collection[QoSPolicyKind] = ()
) -> QoSOverridingOptions:
    """Returns the policies of a publisher or subscription that parameters may override.

    rclpy declares a read-only parameter for each.

    Args:
        node: Its owner.
        topic: The full name of a subscription's topic, if there are ``of_parameters``.
        of_parameters: Policies that a parameter of the node sets. They are left to it unless an
            override is given, because a read-only parameter would hold the first value.
    """
    given = overrides_of(node)
    kinds = [
        kind
        for kind in POLICIES
        if kind not in of_parameters or _of_subscription(topic, kind) in given
    ]
    return QoSOverridingOptions(kinds)


def overrides_of(node: Node) -> Mapping[str, Parameter]:
    """Returns the QoS overrides that ``node`` was started with."""
    given: Mapping[str, Parameter] = getattr(node, "_parameter_overrides", {})
    return {name: value for name, value in given.items() if name.startswith(PREFIX)}


def check_overrides(node: Node) -> None:
    """Checks the values of QoS overrides, which rclpy reads late and refuses without a name.

    Raises:
        ParameterError: A value is not one of its policy, which is named.
    """
    words = {kind.name.lower(): choices for kind, choices in POLICIES.items()}
    for name, parameter in overrides_of(node).items():
        policy, value = name.rpartition(".")[2], parameter.value
        if policy == "depth" and not (type(value) is int and 1 <= value <= DEEPEST):
            raise ParameterError(
                f"parameter '{name}' must be a whole number in [1, {DEEPEST}], "
                f"not {short_repr(value)}"
            )
        if words.get(policy) and value not in words[policy]:
            raise ParameterError(
                f"parameter '{name}' must be one of {', '.join(words[policy])}, "
                f"not {short_repr(value)}"
            )


def _of_subscription(topic: str, policy: QoSPolicyKind) -> str:
    return f"{PREFIX}{topic}.subscription.{policy.name.lower()}"


def unused_overrides(node: Node, later: Collection[str]) -> list[str]:
    """Returns the QoS overrides that no publisher or subscription has read, such as misspelt ones.

    Args:
        node: Has all its publishers and subscriptions, but for those of the topics ``later``.
        later: Full names of topics.
    """
    expected = {_of_subscription(topic, policy) for topic in later for policy in POLICIES}
    return [
        name
        for name in overrides_of(node)
        if not node.has_parameter(name) and name not in expected
    ]

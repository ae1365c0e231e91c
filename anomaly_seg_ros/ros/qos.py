# SPDX-License-Identifier: Apache-2.0
"""Quality of service: profiles, and publishers and subscribers that do not match."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from rclpy.logging import RcutilsLogger
from rclpy.qos import (
    DurabilityPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
)

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks


# Profiles are made anew for each topic, because rclpy writes the overrides of a topic into them.


def input_profile(reliability: str, depth: int) -> QoSProfile:
    """Returns the input's profile from the parameters ``qos_reliability`` and ``qos_depth``."""
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy[reliability.upper()])


def newest_only() -> QoSProfile:
    """Returns the profile of the outputs."""
    return QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)


def latched() -> QoSProfile:
    """Returns the profile of ``~/label_info``, which Nav2 asks for: no policy may be another."""
    return QoSProfile(
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )


class QosEvents:
    """Counts partners with incompatible QoS by topic, and logs the first of each policy.

    The middleware silently leaves such partners unconnected, the most common reason for "no
    images arrive".
    """

    def __init__(self, logger: RcutilsLogger) -> None:
        self._logger = logger
        self._partners: Counter[str] = Counter()
        self._policies: dict[str, str] = {}
        self._said: set[tuple[str, str]] = set()

    def of_subscription(self, topic: str) -> SubscriptionEventCallbacks:
        """Return event callbacks for the subscription of ``topic``."""
        return SubscriptionEventCallbacks(incompatible_qos=self._counter(topic, "publisher"))

    def of_publisher(self, topic: str) -> PublisherEventCallbacks:
        """Return event callbacks for the publisher of ``topic``."""
        return PublisherEventCallbacks(incompatible_qos=self._counter(topic, "subscriber"))

    def summary(self) -> dict[str, str]:
        """Map each topic to the number of incompatible partners and the policy at fault."""
        return {
            topic: f"{count} incompatible, last: {self._policies[topic]}"
            for topic, count in self._partners.items()
        }

    def _counter(self, topic: str, partner: str) -> Callable[[Any], None]:
        def count(event: Any) -> None:
            policy = qos_policy_name_from_kind(event.last_policy_kind)
            self._partners[topic] += event.total_count_change
            self._policies[topic] = f"{partner}'s {policy}"
            if (topic, policy) not in self._said:
                self._said.add((topic, policy))
                self._logger.warning(
                    f"a {partner} of {topic} asks for an incompatible QoS ({policy}); no messages "
                    "will pass between us (said once, counted in /diagnostics)"
                )

        return count

# SPDX-License-Identifier: Apache-2.0
"""The SROS 2 policy allows what a running detector has, and nothing else."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from anomaly_seg_ros.system.resources import config_path

# Exists only where vision_msgs is installed, or with use_sim_time, compressed input, another
# points_source, or points_frame.
SOMETIMES = {
    *("/detector/label_info", "/detector/unknown_objects"),
    *("/clock", "/image/compressed"),
    *("/depth", "/disparity", "/tf", "/tf_static"),
}


def allowed(kind: str, right: str) -> set[str]:
    """Full names of the topics or services for which the policy gives this right."""
    tree = ElementTree.parse(config_path("detector.policy.xml"))  # noqa: S314
    profile = tree.find(".//profile")
    assert (profile.get("ns"), profile.get("node")) == ("/", "detector")
    names = [
        entry.text
        for group in profile.findall(f"{kind}s")
        if group.get(right) == "ALLOW"
        for entry in group.findall(kind)
    ]
    assert len(names) == len(set(names))
    return {
        f"/detector/{name[2:]}" if name.startswith("~/") else f"/{name.lstrip('/')}"
        for name in names
    }


@pytest.mark.ros
def test_the_policy_is_the_interface_of_an_active_detector(start_detector):
    detector = start_detector()

    def differences() -> list[set[str]]:
        probe, name = detector.probe, ("detector", "/")
        published = {topic for topic, _ in probe.get_publisher_names_and_types_by_node(*name)}
        subscribed = {topic for topic, _ in probe.get_subscriber_names_and_types_by_node(*name)}
        served = {service for service, _ in probe.get_service_names_and_types_by_node(*name)}
        return [
            (published ^ allowed("topic", "publish")) - SOMETIMES,
            (subscribed ^ allowed("topic", "subscribe")) - SOMETIMES,
            served ^ allowed("service", "reply"),
        ]

    try:
        detector.spin_until(lambda: not any(differences()), "the graph is the policy's")
    except AssertionError:
        assert differences() == [set(), set(), set()]  # says which
        raise

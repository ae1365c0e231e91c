# SPDX-License-Identifier: Apache-2.0
"""QoS of topics by parameters, and what the running node says of all its parameters."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import yaml
from detector_harness import BEST_EFFORT, street
from rcl_interfaces.srv import ListParameters
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.ros.parameters import PARAMETERS
from anomaly_seg_ros.ros.publishers import FRAME_TOPICS
from anomaly_seg_ros.ros.qos_overrides import check_overrides

LABELS = "qos_overrides./detector/labels.publisher."
IMAGE = "qos_overrides./image.subscription."


def profiles(endpoints: list) -> tuple[ReliabilityPolicy, DurabilityPolicy]:
    """The QoS of the detector's one endpoint."""
    (found,) = [e.qos_profile for e in endpoints if e.node_name == "detector"]
    return found.reliability, found.durability


@pytest.mark.ros
def test_overrides_reach_their_topic_and_no_other(start_detector, tmp_path):
    given = {
        "/detector/labels": {"publisher": {"reliability": "best_effort", "depth": 3}},
        "/detector/ood_score": {"publisher": {"durability": "transient_local"}},
        "/diagnostics": {"publisher": {"depth": 2}},
        "/image": {"subscription": {"reliability": "reliable"}},
    }
    path = tmp_path / "qos.yaml"
    path.write_text(yaml.safe_dump({"/detector": {"ros__parameters": {"qos_overrides": given}}}))
    detector = start_detector(("--ros-args", "--params-file", str(path)))
    detector.listen("labels", qos=BEST_EFFORT)
    detector.wait_connected()
    reliable, best_effort = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT
    volatile, local = DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL
    for topic in FRAME_TOPICS:
        expected = {"labels": (best_effort, volatile), "ood_score": (reliable, local)}
        endpoints = detector.get_publishers_info_by_topic(f"/detector/{topic}")
        assert profiles(endpoints) == expected.get(topic, (reliable, volatile)), topic
    # camera_info keeps what qos_reliability says.
    for topic, reliability in (("/image", reliable), ("/camera_info", best_effort)):
        endpoints = detector.get_subscriptions_info_by_topic(topic)
        assert profiles(endpoints) == (reliability, volatile), topic
    # The graph does not tell the depth.
    (outputs,) = detector.node._outputs.values()
    depths = {topic: p.qos_profile.depth for topic, p in outputs._publishers.items()}
    assert depths.pop("labels") == 3
    assert set(depths.values()) == {1}
    assert detector.node._reporter._publisher.qos_profile.depth == 2
    detector.segment(street(48, 80), 1.0)
    detector.wait_for("labels", 1.0)

    # They hold for the life of the node.
    accepted, reason = detector.set_parameters(**{f"{LABELS}depth": 5})
    assert (accepted, "read-only" in reason) == (False, True)
    for transition in ("deactivate", "cleanup", "configure", "activate"):
        assert detector.change_state(transition)
    (outputs,) = detector.node._outputs.values()
    assert outputs._publishers["labels"].qos_profile.depth == 3


@pytest.mark.ros
def test_without_an_override_the_input_follows_its_parameters(start_detector):
    detector = start_detector(qos_depth=2)

    def depth() -> int:
        image, _ = detector.node._cameras[0]._subscriptions
        return image.qos_profile.depth

    assert depth() == 2
    assert not detector.node.has_parameter(f"{IMAGE}depth")
    assert detector.get_parameter_of_detector(f"{IMAGE}durability") == "volatile"
    assert detector.change_state("deactivate")
    assert detector.set_parameters(qos_depth=7) == (True, "")
    assert detector.change_state("activate")
    assert depth() == 7


@pytest.mark.ros
def test_what_no_topic_takes_is_named(start_detector, capfd):
    unused = [
        "qos_overrides./detector/lables.publisher.depth",
        "qos_overrides./detector/label_info.publisher.depth",  # Nav2 counts on it
        f"{LABELS}deadline",
        "qos_overrides./depth.subscription.dept",
    ]
    later = "qos_overrides./depth.subscription.depth"
    start_detector(**dict.fromkeys([*unused, later], 1))
    told = capfd.readouterr().err
    for name in unused:
        assert f"parameter '{name}' is ignored" in told
    assert later not in told


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("reliability", "yes", "must be one of reliable, best_effort, not 'yes'"),
        ("history", 1, "must be one of keep_last, keep_all, not 1"),
        ("durability", "", "must be one of volatile, transient_local, not ''"),
        ("depth", 0, "must be a whole number in [1, 1000], not 0"),
        ("depth", 2.0, "must be a whole number in [1, 1000], not 2.0"),
        ("depth", True, "must be a whole number in [1, 1000], not True"),
    ],
)
def test_a_wrong_value_is_refused_by_name(name, value, words):
    given = {LABELS + name: Parameter(LABELS + name, value=value)}
    with pytest.raises(ParameterError) as caught:
        check_overrides(SimpleNamespace(_parameter_overrides=given))
    assert str(caught.value) == f"parameter '{LABELS}{name}' {words}"


@pytest.mark.ros
def test_the_running_node_describes_every_parameter(start_detector):
    detector = start_detector()
    listed = detector.call(ListParameters, "list_parameters", ListParameters.Request()).result
    ours = {name for name in listed.names if not name.startswith("qos_overrides.")}
    assert ours >= set(PARAMETERS)
    assert any(name.startswith(LABELS) for name in listed.names)
    for name in listed.names:
        # rclpy's own has no description.
        descriptor = detector.describe(name)
        assert descriptor.description or name == "use_sim_time", name
        fixed = name not in PARAMETERS or PARAMETERS[name].changes == "read-only"
        assert descriptor.read_only == (fixed and name != "use_sim_time"), name
    accepted, reason = detector.set_parameters(autostart=False)
    assert (accepted, "read-only" in reason) == (False, True)

# SPDX-License-Identifier: Apache-2.0
"""~/label_info over DDS: what Nav2's segmentation layer waits for before it takes a mask."""

from __future__ import annotations

import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

messages = pytest.importorskip("vision_msgs.msg", reason="tools/build_messages.sh builds it")

LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
# Of the definitions in vision_msgs 4.1.1, by rosidl_generator_type_description 4.6.6. With other
# definitions the hashes differ, and nodes would misread each other's bytes.
HASHES = {
    "LabelInfo": "RIHS01_3d37df4015cdf660cc851c51897f2acd957e1ca6205ba0a99aebffb9406b0783",
    "Detection2DArray": "RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968",
}


@pytest.mark.ros
def test_who_comes_late_gets_the_names_of_all_labels(start_detector):
    detector = start_detector()
    arrived = []
    detector.probe.create_subscription(
        messages.LabelInfo, "/detector/label_info", arrived.append, LATCHED
    )
    detector.spin_until(lambda: arrived, "the latched message")
    names = {entry.class_id: entry.class_name for entry in arrived[0].class_map}
    assert names == {
        **dict(enumerate(("road", "building", "vegetation", "sky", "car"))),
        5: "unknown",
        255: "unlabelled",
    }
    assert arrived[0].header.stamp.sec > 0
    assert detector.wait_for_diagnostic("model", "label_info", "latched")


@pytest.mark.ros
@pytest.mark.parametrize("name", HASHES)
def test_types_are_those_of_the_real_package(start_detector, name):
    probe = start_detector(wait_active=False).probe
    publisher = probe.create_publisher(getattr(messages, name), "/typed", 1)
    try:
        (info,) = probe.get_publishers_info_by_topic("/typed")
        if not hasattr(info, "topic_type_hash"):
            pytest.skip("Humble has no type hashes")
        assert str(info.topic_type_hash) == HASHES[name]
    finally:
        probe.destroy_publisher(publisher)

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anomaly_seg_ros.bags import BagReader
from anomaly_seg_ros.bags.camera_topics import OWN_OUTPUTS, Candidate, choose, fault_of_name
from anomaly_seg_ros.errors import BagError

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"
GREY = np.zeros((4, 6), np.uint8)
COLOUR = np.zeros((4, 6, 3), np.uint8)
MASK = GREY + np.eye(4, 6, dtype=np.uint8)


def test_the_detectors_topics_are_all_known():
    pytest.importorskip("rclpy")
    from anomaly_seg_ros.ros.publishers import FRAME_TOPICS

    images = {name for name, kind in FRAME_TOPICS.items() if "Image" in kind.__name__}
    assert {name.partition("/")[0] for name in images} == OWN_OUTPUTS


@pytest.mark.parametrize("node", ["/detector", "/a/b/my_node", "/detector/front_left", ""])
@pytest.mark.parametrize("name", sorted(OWN_OUTPUTS))
@pytest.mark.parametrize("transport", ["", "/compressed", "/compressedDepth"])
def test_own_outputs_are_no_camera(node, name, transport):
    assert "output of the detector" in fault_of_name(f"{node}/{name}{transport}")


@pytest.mark.parametrize(
    "topic",
    [
        "/camera/depth/image_rect_raw",
        "/camera/aligned_depth_to_color/image_raw",
        "/camera/image_raw/compressedDepth",
        "/stereo/disparity",
        "/range/image",
        "/lidar/range_image",
        "/camera/infra1/image_rect_raw",
        "/camera/infrared/image_raw",
        "/kinect/ir/image_raw",
        "/cameraDepth/image",
        "/thermal/image_raw",
        "/ground_truth/other",
    ],
)
def test_depth_and_the_like_are_no_camera(topic):
    assert fault_of_name(topic)


@pytest.mark.parametrize(
    "topic",
    [
        "/orange/image_raw",
        "/arrange/image",
        "/oak/depthai/image_raw",
        "/mirror/image_raw",
        "/firefly/image_raw",
        "/labels_camera/image_raw",
        "/overlay/image_raw",
        "/camera/image_raw/compressed",
    ],
)
def test_names_that_only_look_alike(topic):
    assert fault_of_name(topic) is None


@pytest.mark.parametrize(
    ("encoding", "may_be"),
    [
        ("rgb8", True),
        ("mono16", True),
        ("bayer_rggb16", True),
        ("jpeg", True),
        ("rgb8; jpeg compressed bgr8", True),
        ("", True),
        ("16UC1", False),
        ("32FC1", False),
        ("16SC1", False),
        ("16UC1; compressedDepth png", False),
        ("32FC1; compressedDepth rvl", False),
    ],
)
def test_encodings_of_distances_are_no_camera(encoding, may_be):
    assert (Candidate("/a", encoding, 1, False).fault is None) == may_be


def candidate(topic: str, encoding: str = "rgb8", count: int = 5, compressed: bool = False):
    return Candidate(topic, encoding, count, compressed)


@pytest.mark.parametrize(
    ("candidates", "truth", "first"),
    [
        ([candidate("/b"), candidate("/a")], {}, "/a"),
        ([candidate("/a/compressed", compressed=True), candidate("/b")], {}, "/b"),
        ([candidate("/a"), candidate("/b", count=6)], {}, "/b"),
        ([candidate("/a", "mono8", 9), candidate("/b")], {}, "/b"),
        ([candidate("/a", "mono8; jpeg compressed ", 9), candidate("/b")], {}, "/b"),
        ([candidate("/a"), candidate("/b", "mono8", 3, True)], {"/b": 1}, "/b"),
    ],
)
def test_the_rule(candidates, truth, first):
    for order in (candidates, candidates[::-1]):
        chosen, others = choose(order, lambda topic: truth.get(topic, 0))
        assert chosen.topic == first
        assert {chosen, *others} == set(candidates)


def test_the_camera_that_the_ground_truth_was_made_for(foreign):
    bag = foreign()
    for i in range(3):
        bag.image("/left/image", 10 * i + 1, COLOUR, "rgb8")
        bag.image("/right/image", 10 * i + 2, COLOUR, "rgb8")
        bag.image("/ground_truth/anomaly_mask", 10 * i + 2, MASK, "mono8")
    with BagReader(bag.close()) as reader:
        assert reader.image_topic == "/right/image"
        assert reader.other_image_topics == ["/left/image"]
        assert reader.matches["anomaly_mask"].matched == 3


def test_a_bag_without_a_camera_says_what_its_images_are(foreign):
    bag = foreign()
    bag.image("/detector/overlay", 1, COLOUR, "rgb8")
    bag.image("/front/image", 1, GREY.astype(np.uint16), "16UC1")
    path = bag.close()
    with pytest.raises(
        BagError,
        match=r"no image topic \(topics: .*/detector/overlay: it is named like an output of the "
        r"detector; /front/image: its encoding '16UC1' is one of depth",
    ):
        BagReader(path)
    with BagReader(path, image_topic="/detector/overlay") as reader:
        assert "/detector/overlay" in reader.no_camera
        assert len(list(reader.frames())) == 1


def test_a_damaged_message_of_another_camera_is_no_matter(foreign):
    bag = foreign()
    bag.image("/other", 1, COLOUR, "rgb8")
    kind = "sensor_msgs/msg/Image"
    damaged = bag.writer.add_connection("/cam", kind, typestore=bag.store)
    bag.writer.write(damaged, 10**18, b"\0\1\0\0" + b"\xff" * 100)
    path = bag.close()
    with BagReader(path, image_topic="/other") as reader:
        assert len(list(reader.frames())) == 1
    with BagReader(path, image_topic="/cam") as reader, pytest.raises(BagError, match="damaged"):
        list(reader.frames())


@pytest.mark.skipif(not CASES.is_dir(), reason="no ../shared/cases")
@pytest.mark.parametrize(
    ("name", "topic"),
    [
        ("own", "/front_cam"),
        ("rangefirst", "/camera/color/image_raw/compressed"),
        ("two", "/left/image_raw"),
    ],
)
def test_given_bags(name, topic):
    with BagReader(CASES / "bags" / name) as reader:
        assert reader.image_topic == topic
        assert all(frame.to_rgb().shape == (64, 96, 3) for frame in reader.frames())

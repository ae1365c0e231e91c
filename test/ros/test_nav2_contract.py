# SPDX-License-Identifier: Apache-2.0
"""The node's messages and config/nav2_costmap.yaml, held against what Nav2's layers read."""

from __future__ import annotations

import numpy as np
import pytest
from detector_harness import BEST_EFFORT, array_of, stamped, street
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import PointCloud2, PointField

from anomaly_seg_ros.checkpoints.loading import load_model
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.io.safe_yaml_json import read_yaml
from anomaly_seg_ros.objects.points import POINT
from anomaly_seg_ros.ros.parameters import read_defaults
from anomaly_seg_ros.ros.points import FIELDS
from anomaly_seg_ros.ros.publishers import FRAME_TOPICS
from anomaly_seg_ros.system.resources import config_path

# Of the layer's label subscription; the others are sensor data.
LATCHED = QoSProfile(
    depth=5,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


@pytest.fixture(scope="module")
def costmap() -> dict[str, object]:
    content = read_yaml(config_path("nav2_costmap.yaml"), ParameterError)
    return content["local_costmap"]["local_costmap"]["ros__parameters"]


def sources(layer: dict[str, object]) -> dict[str, dict[str, object]]:
    """The observation sources by name; Nav2 splits their names at spaces."""
    return {name: layer[name] for name in layer["observation_sources"].split()}


def test_every_layer_is_configured(costmap):
    assert set(costmap) == {"plugins", *costmap["plugins"]}
    assert all("::" in costmap[name]["plugin"] for name in costmap["plugins"])


def test_obstacles_are_the_points_that_the_node_publishes(costmap):
    (source,) = sources(costmap["obstacle_layer"]).values()
    namespace, topic = source["topic"].rsplit("/", 1)
    assert (namespace, FRAME_TOPICS[topic]) == ("/detector", PointCloud2)
    assert source["data_type"] == "PointCloud2"
    assert source["obstacle_max_range"] <= read_defaults()["points_max_range"]
    # costmap_2d iterates over x, y and z as float32, whatever else there is.
    fields = {field.name: (field.datatype, field.offset) for field in FIELDS}
    for axis in "xyz":
        assert fields[axis] == (PointField.FLOAT32, POINT.fields[axis][1])


def test_the_segmentation_source_names_topics_and_classes_of_the_default_model(costmap):
    (source,) = sources(costmap["semantic_segmentation_layer"]).values()
    for key in ("segmentation_topic", "confidence_topic"):
        assert source[key].removeprefix("/detector/") in FRAME_TOPICS
    assert source["labels_topic"] == "/detector/label_info"
    _, metadata = load_model("default")
    known = {*metadata.classes, "unknown", "unlabelled"}
    named = [name for kind in source["class_types"] for name in source[kind]["classes"]]
    assert set(named) <= known
    assert len(named) == len(set(named)), "a class has two costs"
    for kind in source["class_types"]:
        assert 0 <= source[kind]["base_cost"] <= source[kind]["max_cost"] <= 254


@pytest.mark.ros
def test_mask_confidence_and_labels_are_what_the_layer_indexes(start_detector):
    messages = pytest.importorskip("vision_msgs.msg", reason="tools/build_messages.sh builds it")
    detector = start_detector()
    infos = []
    detector.probe.create_subscription(
        messages.LabelInfo, "/detector/label_info", infos.append, LATCHED
    )
    detector.listen("open_set_labels", "confidence", qos=BEST_EFFORT)
    detector.wait_connected()
    picture = street(48, 80)
    detector.segment(picture, 4.5)
    mask = detector.wait_for("open_set_labels", 4.5)
    confidence = detector.wait_for("confidence", 4.5)
    detector.spin_until(lambda: infos, "labels")
    names = {entry.class_id: entry.class_name for entry in infos[0].class_map}
    assert max(names) == 255  # the layer's ids are bytes
    for message in (mask, confidence):
        assert message.header == stamped(4.5)
        assert message.encoding == "mono8"
        assert (message.height, message.width) == picture.shape[:2]
        # Its index is row * width + column.
        assert len(message.data) == message.height * message.width
        row, column = 31, 57
        assert message.data[row * message.width + column] == array_of(message)[row, column]
    assert set(np.unique(array_of(mask)).tolist()) <= set(names)
    assert "unknown" in {names[value] for value in np.unique(array_of(mask)).tolist()}

# SPDX-License-Identifier: Apache-2.0
"""The naive node publishes what ours does: otherwise their times could not be compared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import rclpy
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from anomaly_seg_ros.inference.prediction import UnknownRule
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.io.images import read_image
from anomaly_seg_ros.ros.messages import image_message
from benchmarks.online.naive_node import NaiveNode

pytestmark = pytest.mark.ros
REPOSITORY = Path(__file__).resolve().parents[3]
STREET = REPOSITORY / "assets" / "demo_clip" / "images" / "000.jpg"
SIZE = (128, 256)
OUTPUTS = {"labels": "mono8", "ood_score": "32FC1", "open_set_mask": "mono8"}


@pytest.fixture
def naive() -> Iterator[NaiveNode]:
    context = rclpy.Context()
    rclpy.init(context=context)
    parameters = {"model": "default", "device": "cpu"}
    parameters |= {"inference_height": SIZE[0], "inference_width": SIZE[1]}
    overrides = [Parameter(name, value=value) for name, value in parameters.items()]
    node = NaiveNode(context=context, parameter_overrides=overrides)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


def _published(node: NaiveNode, rgb: np.ndarray) -> dict[str, np.ndarray]:
    """What the node would publish of a frame."""
    messages: dict[str, Image] = {}
    for name in OUTPUTS:
        record = SimpleNamespace(publish=lambda m, name=name: messages.update({name: m}))
        setattr(node, name, record)
    header = Header(frame_id="here")
    header.stamp.sec = 7
    node.on_image(image_message(rgb, "rgb8", header))
    arrays = {}
    for name, encoding in OUTPUTS.items():
        message = messages[name]
        assert message.header == header
        assert message.encoding == encoding
        dtype = np.dtype(np.float32 if encoding == "32FC1" else np.uint8)
        assert message.step == message.width * dtype.itemsize
        arrays[name] = np.frombuffer(message.data, dtype).reshape(message.height, message.width)
    return arrays


def test_outputs_are_ours(naive: NaiveNode) -> None:
    """On the shipped model: one with random weights knows one class only."""
    # Shrunk to half, where both ways of resizing take the mean of four pixels.
    rgb = cv2.resize(read_image(STREET), (512, 256), interpolation=cv2.INTER_AREA)
    segmenter = Segmenter.load("default", device="cpu", precision="fp32", inference_size=SIZE)
    rule = UnknownRule(segmenter.metadata.default_score, 0.5)
    ours = segmenter.predict(rgb, (), confidence=False, unknown=rule)
    theirs = _published(naive, rgb)
    assert np.mean(theirs["labels"] == ours.labels) > 0.98
    assert len(np.unique(ours.labels)) > 3
    # It upsamples the logits, we the score: edges differ.
    assert np.corrcoef(theirs["ood_score"].ravel(), ours.unit_score.ravel())[0, 1] > 0.95
    assert np.mean(theirs["open_set_mask"] == ours.mask) > 0.99
    assert set(np.unique(theirs["open_set_mask"])) <= {0, 255}


def test_outputs_have_the_frame_s_size(naive: NaiveNode) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8)
    assert {array.shape for array in _published(naive, rgb).values()} == {(150, 200)}

# SPDX-License-Identifier: Apache-2.0
"""Messages that are handled as bytes: what rclpy reads out of them."""

from __future__ import annotations

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from benchmarks.online import cases, client, echo_node

pytestmark = pytest.mark.ros


def test_a_prepared_frame_is_the_image_with_the_new_stamp() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    stamp = 1_700_000_000_123_456_789
    serialised = client.PreparedFrame(rgb).stamped(stamp)
    assert client.stamp_of(serialised) == stamp
    message = deserialize_message(serialised, Image)
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == divmod(stamp, 10**9)
    assert (message.height, message.width, message.encoding, message.step) == (5, 7, "rgb8", 21)
    np.testing.assert_array_equal(np.frombuffer(message.data, np.uint8), rgb.ravel())


def test_stamps_never_repeat() -> None:
    stamps = client.Stamps()
    made = [stamps.next() for _ in range(1000)]
    assert made == sorted(set(made))


@pytest.mark.parametrize("frame_id", ["", "c", "cam", "came", "camera_optical_frame"])
def test_the_echo_reads_the_size_whatever_the_frame_is_called(frame_id: str) -> None:
    image = Image(header=Header(frame_id=frame_id), height=480, width=641)
    assert echo_node.frame_size(serialize_message(image)) == (480, 641)


@pytest.mark.parametrize(("name", "size"), [("labels", 1), ("ood_score", 4)])
def test_the_echo_s_answers_are_as_large_as_the_detector_s(name: str, size: int) -> None:
    message = deserialize_message(echo_node.zeros(name, (6, 8)), Image)
    assert (message.height, message.width, message.step) == (6, 8, 8 * size)
    assert len(message.data) == 6 * 8 * size


def test_frames_have_the_size_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("ANOMALY_SEG_DATA", str(tmp_path))
    images, source = cases.load_frames((10, 20), 3)
    assert {image.shape for image in images} == {(10, 20, 3)}
    assert "noise" in source


@pytest.mark.data
def test_real_frames_are_resized(shared_data: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMALY_SEG_DATA", str(shared_data))
    images, source = cases.load_frames((100, 200), 2)
    assert [image.shape for image in images] == [(100, 200, 3)] * 2
    assert "real" in source

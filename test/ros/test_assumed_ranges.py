# SPDX-License-Identifier: Apache-2.0
"""16-bit images and compressed formats at the running node."""

from __future__ import annotations

import array
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from detector_harness import array_of, stamped, street
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rosbags.rosbag2 import Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CompressedImage, Image

from anomaly_seg_ros.bags import topics
from anomaly_seg_ros.bags.evaluation_input import BagOptions
from anomaly_seg_ros.bags.reader import BagReader
from anomaly_seg_ros.cli import evaluate_bag
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.evaluation.frames import BagFrames
from anomaly_seg_ros.io.bit_depth import BitDepth
from anomaly_seg_ros.ros.messages import image_message, rgb_from_message

pytestmark = pytest.mark.ros

FRAME = street(48, 80)
GREY = FRAME[..., 1]


def mono16(bits: int, seconds: float) -> Image:
    samples = GREY.astype("<u2") << (bits - 8)
    message = Image(header=stamped(seconds), height=48, width=80, encoding="mono16", step=160)
    message.data = array.array("B", samples.tobytes())
    return message


def answers(detector, topic: str, *messages: object) -> np.ndarray:
    """Of the last of them."""
    for message in messages:
        detector.send(message)
        stamp = message.header.stamp
        answer = detector.wait_for(topic, stamp.sec + stamp.nanosec / 1e9)
    return array_of(answer)


def test_12_of_16_bits_are_told_and_right_once_stated(start_detector, capfd):
    detector = start_detector(late_after=0.0)
    detector.listen("ood_score")
    detector.wait_connected()
    expected = answers(detector, "ood_score", image_message(GREY, "mono8", stamped(1)))
    dark = answers(detector, "ood_score", *(mono16(12, s) for s in range(2, 8)))
    assert not np.array_equal(dark, expected)
    values = detector.wait_for_diagnostic("input", "condition: bit depth", "no sample of ")
    assert values["level"] == 1
    assert "look like 12 bits" in values["condition: bit depth"]
    assert "'bit_depth: 12'" in values["message"]
    assert values["bad"] == "0"

    assert detector.set_parameters(bit_depth=12) == (True, "")
    np.testing.assert_array_equal(answers(detector, "ood_score", mono16(12, 10)), expected)
    detector.spin_until(lambda: "condition: bit depth" not in detector.diagnostic("input"))

    answers(detector, "ood_score", mono16(14, 11))
    key = "condition: over bit depth"
    detector.spin_until(lambda: key in detector.diagnostic("input"))
    assert "'bit_depth: 14'" in detector.diagnostic("input")[key]
    detector.wait_for_diagnostic("input", "fault: over bit depth", "1, ")
    assert "/image: bit depth: no sample of" in capfd.readouterr().err


def test_compressed_formats_are_read_and_what_was_lost_is_told(start_detector):
    detector = start_detector(late_after=0.0, image_transport="compressed")
    detector.listen("ood_score")
    detector.wait_connected()

    def png(pixels: np.ndarray, image_format: str, seconds: float) -> CompressedImage:
        _, data = cv2.imencode(".png", np.ascontiguousarray(pixels))
        return CompressedImage(header=stamped(seconds), format=image_format, data=data.tobytes())

    expected = answers(
        detector, "ood_score", png(FRAME[..., ::-1], "rgb8; png compressed bgr8", 1)
    )
    found = answers(detector, "ood_score", png(FRAME, "rgb8; png compressed rgb8", 2))
    np.testing.assert_array_equal(found, expected)
    values = detector.wait_for_diagnostic("input", "note 1", "compressed images of rgb8: red and")
    assert values["bad"] == "0"

    mosaic = png(GREY, "bayer_rggb8; png compressed ", 3)
    colours = answers(detector, "ood_score", mosaic)
    plain = png(rgb_from_message(mosaic)[..., ::-1], "png", 4)
    np.testing.assert_array_equal(colours, answers(detector, "ood_score", plain))

    detector.send(png(GREY, "16UC1; compressedDepth png", 5))
    values = detector.wait_for_diagnostic("input", "fault: unsupported format", "1, last: ")
    assert "depth image" in values["fault: unsupported format"]


def bag_of_12_bits(path: Path) -> Path:
    """Six mono16 frames as a recorder would write them, with masks."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    types = store.types
    with Writer(path, version=8) as writer:
        connections = {
            topic: writer.add_connection(topic, "sensor_msgs/msg/Image", typestore=store)
            for topic in ("/camera/image_raw", topics.ANOMALY_MASK)
        }
        mask = np.zeros((48, 80), np.uint8)
        mask[20:30, 20:40] = 1
        for index in range(6):
            stamp = types["builtin_interfaces/msg/Time"](100 + index, 0)
            header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera")
            samples = GREY.astype("<u2") << 4
            for topic, pixels, encoding in zip(
                connections, (samples, mask), ("mono16", "mono8"), strict=True
            ):
                message = types["sensor_msgs/msg/Image"](
                    header, 48, 80, encoding, 0, pixels[0].nbytes, pixels.reshape(-1).view("u1")
                )
                data = store.serialize_cdr(message, message.__msgtype__)
                writer.write(connections[topic], (100 + index) * 10**9, data)
    return path


def test_evaluations_of_bags_tell_it_and_take_the_depth(tmp_path, tiny_model, capsys):
    bag = bag_of_12_bits(tmp_path / "bag")
    with BagReader(bag) as reader:
        for frame in reader.frames():
            np.testing.assert_array_equal(frame.to_rgb(BitDepth(12))[..., 1], GREY)

    def notes(*options: str) -> list[str]:
        out = tmp_path / "out"
        arguments = [str(bag), "--out", str(out), "--model", str(tiny_model), *options]
        assert evaluate_bag.main([*arguments, "--mode", "in-process", "--device", "cpu"]) == 0
        return json.loads((out / "metrics.json").read_text())["notes"]

    assert any("look like 12 bits" in note and "--bit-depth" in note for note in notes())
    assert not any("bits" in note for note in notes("--bit-depth", "12"))
    stored = json.loads((tmp_path / "out" / "metrics.json").read_text())["configuration"]
    assert (stored["options"]["bit_depth"], stored["options"]["image_topic"]) == (12, None)

    frames = BagFrames(bag, "bag", None)
    assert len(list(frames.load(range(6)))) == 6
    assert "look like 12 bits" in capsys.readouterr().err
    stated = BagFrames(bag, "bag", None, BagOptions.parse({"bit_depth": "12"}))
    for _, sample in stated.load(range(6)):
        np.testing.assert_array_equal(sample.image[..., 1], GREY)
    assert "bits" not in capsys.readouterr().err
    assert stated.fingerprint() != frames.fingerprint()
    with pytest.raises(ParameterError, match="bit_depth: expected a number of bits, got many"):
        BagOptions.parse({"bit_depth": "many"})


def test_numbers_may_be_set_either_way(start_detector):
    detector = start_detector(max_rate=10, qos_depth=2.0, late_after=0)
    assert detector.get_parameter_of_detector("max_rate") == 10.0
    assert detector.set_parameters(max_rate=20, jpeg_quality=80.0) == (True, "")
    values = [detector.get_parameter_of_detector(n) for n in ("max_rate", "jpeg_quality")]
    assert [(type(v), v) for v in values] == [(float, 20.0), (int, 80)]
    for name, value, words in (
        ("max_rate", True, "'max_rate' must be of type float, not bool"),
        ("max_rate", "fast", "'max_rate' must be of type float, not str"),
        ("jpeg_quality", 80.5, "'jpeg_quality' must be of type int, not float"),
        ("max_rate", 2000, "'max_rate' must be in [0.0, 1000.0], not 2000"),
    ):
        accepted, reason = detector.set_parameters(**{name: value})
        assert not accepted
        assert words in reason
    # As `ros2 param set` does it.
    change = Parameter("max_rate", value=30).to_parameter_msg()
    request = SetParameters.Request(parameters=[change])
    (result,) = detector.call(SetParameters, "set_parameters", request).results
    assert (result.successful, result.reason) == (True, "")
    assert detector.get_parameter_of_detector("max_rate") == 30.0

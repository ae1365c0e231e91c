# SPDX-License-Identifier: Apache-2.0
"""Frames in, outputs out: the running node, talked to from outside over real DDS."""

from __future__ import annotations

import array
import threading

import numpy as np
import pytest
from detector_harness import array_of, seconds_of, stamped, street
from sensor_msgs.msg import CameraInfo, CompressedImage

from anomaly_seg_ros import drawing
from anomaly_seg_ros.inference.prediction import OutputRequest
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.ros import pipeline
from anomaly_seg_ros.ros.messages import image_message, jpeg_message, rgb_from_message
from anomaly_seg_ros.ros.publishers import FRAME_TOPICS

pytestmark = pytest.mark.ros

FRAME = street(48, 80)  # not square, and not the network's 64 x 96
PICTURES = {
    "labels": "mono8", "open_set_labels": "mono8", "open_set_mask": "mono8",
    "ood_score": "32FC1", "confidence": "mono8", "overlay": "rgb8", "ood_heatmap": "rgb8",
}  # fmt: skip
LATENCIES = [topic for topic in FRAME_TOPICS if topic.startswith("debug/")]


# Outputs.


def test_every_output_of_a_frame(start_detector, segmenter):
    detector = start_detector(score_method="energy", overlay_alpha=0.3, camera_height=1.4)
    detector.listen(*FRAME_TOPICS)
    detector.wait_connected()
    info = CameraInfo(header=stamped(3.0, "lens"), width=80, height=48, distortion_model="plumb")
    info.k = [50.0, 0.0, 40.0, 0.0, 50.0, 24.0, 0.0, 0.0, 1.0]
    detector.infos.publish(info)
    detector.spin_for(0.3)
    detector.segment(FRAME, 7.125)
    outputs = {topic: detector.wait_for(topic, 7.125) for topic in FRAME_TOPICS
               if topic not in LATENCIES}  # fmt: skip
    for topic, message in outputs.items():
        assert message.header == stamped(7.125), topic
    got = {topic: array_of(outputs[topic]) for topic in PICTURES}
    assert {topic: outputs[topic].encoding for topic in PICTURES} == PICTURES

    expected = segmenter.predict(FRAME, scores=("energy",))
    metadata = segmenter.metadata
    score = metadata.calibration["energy"].to_unit(expected.scores["energy"])
    unknown = score >= 0.5
    assert 0.1 < unknown.mean() < 0.9  # else the masks below would prove nothing
    np.testing.assert_array_equal(got["labels"], expected.labels)
    np.testing.assert_array_equal(got["confidence"], expected.confidence)
    np.testing.assert_array_equal(got["ood_score"], score)
    np.testing.assert_array_equal(got["open_set_mask"], np.where(unknown, 255, 0))
    np.testing.assert_array_equal(got["open_set_labels"], np.where(unknown, 5, expected.labels))
    overlay = drawing.overlay(FRAME, expected.labels, metadata.palette, 0.3, unknown=unknown)
    np.testing.assert_array_equal(got["overlay"], overlay)
    np.testing.assert_array_equal(got["ood_heatmap"], drawing.heat_map(score))
    for topic in ("labels", "open_set_labels", "open_set_mask"):
        png = rgb_from_message(outputs[f"{topic}/compressed"])
        np.testing.assert_array_equal(png, np.dstack([got[topic]] * 3))
    for topic in ("overlay", "ood_heatmap"):
        jpeg = rgb_from_message(outputs[f"{topic}/compressed"]).astype(int)
        assert jpeg.shape == got[topic].shape
        assert np.abs(jpeg - got[topic]).mean() < 30
    published_info = outputs["camera_info"]
    assert (published_info.width, published_info.distortion_model) == (80, "plumb")
    inference, processing, pipeline = (
        detector.spin_until(lambda t=t: detector.received[t], t)[0].data for t in LATENCIES
    )
    assert 0 < inference < processing < 5000
    # The stamp is of 1970, by another clock than the node's: it counts from the arrival.
    assert processing < pipeline < 5000


def test_outputs_nobody_wants_are_not_made(start_detector, monkeypatch):
    made = []
    for name in ("overlay", "heat_map"):
        real = getattr(drawing, name)
        monkeypatch.setattr(
            drawing, name, lambda *a, n=name, r=real, **k: made.append(n) or r(*a, **k)
        )
    segment = Segmenter.segment
    decode = pipeline.rgb_from_message
    monkeypatch.setattr(
        pipeline, "rgb_from_message", lambda *a: made.append("image") or decode(*a)
    )
    asked = []

    def spy(self, images, request):
        asked.append(request)
        return segment(self, images, request)

    detector = start_detector()
    monkeypatch.setattr(Segmenter, "segment", spy)
    detector.spin_until(detector.images.get_subscription_count)
    detector.segment(FRAME, 1.0)
    detector.wait_for_diagnostic("input", "unwatched", "1")
    assert asked == made == []
    detector.listen("labels")
    detector.wait_connected()
    detector.segment(FRAME, 2.0)
    detector.wait_for("labels", 2.0)
    assert asked == [OutputRequest(labels=True, confidence=False)]
    assert made == ["image"]
    detector.listen("ood_heatmap/compressed")
    detector.wait_connected()
    detector.segment(FRAME, 3.0)
    detector.wait_for("ood_heatmap/compressed", 3.0)
    assert made == ["image", "image", "heat_map"]


@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [("bgr8", FRAME[..., ::-1]), ("rgba8", np.dstack([FRAME, FRAME[..., :1]])), ("rgb8", FRAME)],
)
def test_padding_and_channel_order_change_nothing(start_detector, segmenter, encoding, pixels):
    detector = start_detector()
    detector.listen("labels")
    detector.wait_connected()
    message = image_message(np.ascontiguousarray(pixels), "rgb8", stamped(1.0))
    rows = np.frombuffer(message.data, np.uint8).reshape(48, -1)
    padded = np.hstack([rows, np.full((48, 13), 200, np.uint8)])
    message.encoding, message.step = encoding, padded.shape[1]
    message.data = array.array("B", padded.tobytes())
    detector.send(message)
    expected = segmenter.predict(FRAME).labels
    np.testing.assert_array_equal(array_of(detector.wait_for("labels", 1.0)), expected)


def test_compressed_input(start_detector, segmenter):
    detector = start_detector(image_transport="compressed")
    detector.listen("labels")
    detector.wait_connected()
    message = jpeg_message(FRAME, 90, stamped(1.0))
    detector.send(message)
    expected = segmenter.predict(rgb_from_message(message)).labels
    np.testing.assert_array_equal(array_of(detector.wait_for("labels", 1.0)), expected)
    cut = jpeg_message(FRAME, 90, stamped(2.0))
    cut.data = cut.data[: len(cut.data) // 2]
    detector.send(cut)
    detector.wait_for_diagnostic("input", "fault: truncated", "1, last: compressed image")
    detector.send(CompressedImage(header=stamped(3.0), format="jpeg", data=message.data))
    detector.wait_for("labels", 3.0)
    assert [seconds_of(m) for m in detector.received["labels"]] == [1.0, 3.0]


# Inference modes.


@pytest.mark.parametrize(
    ("parameters", "options", "told"),
    [
        ({"inference_mode": "full"}, {}, {"inference_size": "the frame's own"}),
        (
            {"inference_mode": "tiled", "tile_height": 48, "tile_width": 64, "tile_overlap": 16},
            {"tile_size": (48, 64), "tile_overlap": 16},
            {"tile_size": "48 x 64 (height x width)", "tile_overlap": "16",
             "inference_size": "the frame's own"},
        ),
        (
            {"inference_mode": "tiled", "tile_height": 0, "tile_width": 0, "tile_overlap": 32,
             "inference_height": 80, "inference_width": 160},
            {"tile_size": None, "tile_overlap": 32, "inference_size": (80, 160)},
            {"tile_size": "64 x 96 (height x width)", "tile_overlap": "32",
             "inference_size": "80 x 160 (height x width)"},
        ),
    ],
    ids=["full", "tiled", "tiled over a resized frame"],
)  # fmt: skip
def test_inference_modes(start_detector, tiny_model, parameters, options, told):
    detector = start_detector(score_method="energy", **parameters)
    detector.listen("labels", "ood_score")
    detector.wait_connected()
    alone = Segmenter.load(tiny_model, inference_mode=parameters["inference_mode"], **options)
    calibration = alone.metadata.calibration["energy"]
    for seconds, size in enumerate([(75, 133), (133, 75)], 1):
        image = street(*size)
        expected = alone.predict(image, ("energy",))
        detector.segment(image, float(seconds))
        labels = array_of(detector.wait_for("labels", float(seconds)))
        score = array_of(detector.wait_for("ood_score", float(seconds)))
        np.testing.assert_array_equal(labels, expected.labels)
        unit = calibration.to_unit(expected.scores["energy"])
        np.testing.assert_allclose(score, unit, atol=1e-6)
    values = detector.wait_for_diagnostic("model", "inference_mode", parameters["inference_mode"])
    assert {name: values[name] for name in told} == told
    assert float(values["peak_memory_mib"]) > 50  # torch alone is larger
    assert values["peak_memory_of"].startswith("resident in the whole process")


# Latest-only, rates, responsiveness.


def test_answers_while_inference_runs_and_keeps_the_newest_frame(start_detector, monkeypatch):
    detector = start_detector()
    detector.listen("labels")
    detector.wait_connected()
    segment, taken, let_go = Segmenter.segment, threading.Event(), threading.Event()

    def held(self, images, request):
        taken.set()
        let_go.wait()
        return segment(self, images, request)

    monkeypatch.setattr(Segmenter, "segment", held)
    try:
        for received, seconds in enumerate((1.0, 2.0, 3.0, 4.0), 1):
            detector.segment(FRAME, seconds)
            detector.wait_for_diagnostic("input", "received", str(received))
            assert taken.wait(60)
        # The first frame is still at work.
        assert detector.set_parameters(threshold=0.7) == (True, "")
        assert detector.state() == "active"
        assert detector.received["labels"] == []
    finally:
        let_go.set()
    detector.wait_for("labels", 4.0)
    assert [seconds_of(m) for m in detector.received["labels"]] == [1.0, 4.0]
    values = detector.wait_for_diagnostic("input", "processed", "2")
    assert (values["received"], values["dropped"]) == ("4", "2")


def test_rate_limit(start_detector):
    detector = start_detector(max_rate=0.1)
    detector.listen("labels")
    detector.wait_connected()
    detector.segment(FRAME, 1.0)
    detector.wait_for("labels", 1.0)
    detector.segment(FRAME, 2.0)
    detector.wait_for_diagnostic("input", "throttled", "1")
    assert detector.set_parameters(max_rate=0.0) == (True, "")
    detector.segment(FRAME, 3.0)
    detector.wait_for("labels", 3.0)
    assert [seconds_of(m) for m in detector.received["labels"]] == [1.0, 3.0]

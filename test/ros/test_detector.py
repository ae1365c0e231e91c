"""The running node, talked to from outside over real DDS."""

from __future__ import annotations

import array
import time

import cv2
import numpy as np
import pytest
from detector_harness import BEST_EFFORT, array_of, seconds_of, stamped, street
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage

from anomaly_seg_ros import drawing
from anomaly_seg_ros.inference import Segmenter
from anomaly_seg_ros.ros.messages import image_message, jpeg_message, rgb_from_message
from anomaly_seg_ros.ros.publishers import FRAME_TOPICS

pytestmark = pytest.mark.ros

FRAME = street(48, 80)  # not square, and not the network's 64 x 96
PICTURES = {
    "labels": "mono8", "open_set_labels": "mono8", "open_set_mask": "mono8",
    "ood_score": "32FC1", "confidence": "mono8", "overlay": "rgb8", "ood_heatmap": "rgb8",
}  # fmt: skip
LATENCIES = [topic for topic in FRAME_TOPICS if topic.startswith("debug/")]


@pytest.fixture
def segmenter(tiny_model):
    return Segmenter.load(tiny_model)


# Outputs.


def test_every_output_of_a_frame(start_detector, segmenter):
    detector = start_detector(score_method="energy", overlay_alpha=0.3)
    detector.listen(*FRAME_TOPICS)
    detector.wait_connected()
    info = CameraInfo(header=stamped(3.0, "lens"), width=80, height=48, distortion_model="plumb")
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
    # The stamp is of 1970.
    assert pipeline == pytest.approx((time.time() - 7.125) * 1e3, rel=1e-4)


def test_outputs_nobody_wants_are_not_made(start_detector, monkeypatch):
    made = []
    for name in ("overlay", "heat_map"):
        real = getattr(drawing, name)
        monkeypatch.setattr(
            drawing, name, lambda *a, n=name, r=real, **k: made.append(n) or r(*a, **k)
        )
    predict = Segmenter.predict
    asked = []

    def spy(self, image, **what):
        asked.append(what)
        return predict(self, image, **what)

    detector = start_detector()
    monkeypatch.setattr(Segmenter, "predict", spy)
    detector.spin_until(detector.images.get_subscription_count)
    detector.segment(FRAME, 1.0)
    detector.wait_for_diagnostic("input", "unwatched", "1")
    assert asked == []
    detector.listen("labels")
    detector.wait_connected()
    detector.segment(FRAME, 2.0)
    detector.wait_for("labels", 2.0)
    assert asked == [{"scores": (), "labels": True, "confidence": False, "unknown": None}]
    assert made == []
    detector.listen("ood_heatmap/compressed")
    detector.wait_connected()
    detector.segment(FRAME, 3.0)
    detector.wait_for("ood_heatmap/compressed", 3.0)
    assert made == ["heat_map"]


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


# Bad input.


def test_bad_frames_are_counted_and_the_next_good_one_is_processed(start_detector):
    detector = start_detector()
    detector.listen("labels")
    detector.wait_connected()

    def bad(seconds: float, **fields: object):
        message = image_message(FRAME, "rgb8", stamped(seconds))
        for name, value in fields.items():
            setattr(message, name, value)
        return message

    not_finite = image_message(np.full((48, 80), np.nan, np.float32), "32FC1", stamped(4.5))
    faults = {
        "unknown encoding": bad(0.5, encoding="rgb7"),
        "short data": bad(1.5, data=array.array("B", bytes(7))),
        "short step": bad(2.5, step=3),
        "zero size": bad(3.5, width=0),
        "not finite": not_finite,
    }
    for index, (kind, message) in enumerate(faults.items()):
        detector.send(message)
        detector.wait_for_diagnostic("input", f"fault: {kind}", "1, last: ")
        detector.segment(FRAME, index + 1.0)
        detector.wait_for("labels", index + 1.0)
    assert [seconds_of(m) for m in detector.received["labels"]] == [1.0, 2.0, 3.0, 4.0, 5.0]
    values = detector.wait_for_diagnostic("input", "processed", "5")
    assert (values["received"], values["bad"], values["failed"]) == ("10", "5", "0")


def test_a_fault_is_logged_once_per_kind(start_detector, capfd):
    detector = start_detector()
    detector.spin_until(detector.images.get_subscription_count)
    for index in range(3):
        for encoding in ("rgb7", "rgb8"):
            message = image_message(FRAME, encoding, stamped(1 + index))
            message.width = 0 if encoding == "rgb8" else message.width
            detector.send(message)
            count = 2 * index + (1 if encoding == "rgb7" else 2)
            detector.wait_for_diagnostic("input", "bad", str(count))
    log = "".join(capfd.readouterr())
    assert log.count("unknown encoding") == 1
    assert log.count("zero size") == 1
    assert "/image: unknown encoding: encoding 'rgb7'" in log


def test_frames_may_change_their_size(start_detector):
    detector = start_detector()
    detector.listen("open_set_labels")
    detector.wait_connected()
    for seconds, (height, width) in enumerate([(48, 80), (80, 48), (33, 101), (7, 300), (1, 1)]):
        detector.segment(street(height, width), float(seconds))
        message = detector.wait_for("open_set_labels", float(seconds))
        assert array_of(message).shape == (height, width)


def test_stamps_may_go_back_or_repeat(start_detector):
    detector = start_detector()
    detector.listen("labels")
    detector.wait_connected()
    for count, seconds in enumerate([5.0, 5.0, 3.0, 6.0], start=1):
        detector.segment(FRAME, seconds)
        detector.spin_until(lambda n=count: len(detector.received["labels"]) == n)
    assert [seconds_of(m) for m in detector.received["labels"]] == [5.0, 5.0, 3.0, 6.0]
    values = detector.wait_for_diagnostic("input", "fault: stamp went back", "1, last: 5.0")
    assert values["fault: stamp repeated"].startswith("1, ")
    assert values["bad"] == "0"


def test_a_failing_network_does_not_end_the_node(start_detector, monkeypatch):
    detector = start_detector()
    detector.listen("labels")
    detector.wait_connected()
    with monkeypatch.context() as patch:

        def fail(self, image, **what):
            raise RuntimeError("CUDA out of memory")

        patch.setattr(Segmenter, "predict", fail)
        detector.segment(FRAME, 1.0)
        reason = detector.wait_for_diagnostic("input", "failed", "1")
    assert reason["fault: inference: RuntimeError"] == "1, last: CUDA out of memory"
    detector.segment(FRAME, 2.0)
    detector.wait_for("labels", 2.0)
    assert detector.state() == "active"


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
    predict = Segmenter.predict

    def slow(self, image, **what):
        time.sleep(1.5)
        return predict(self, image, **what)

    monkeypatch.setattr(Segmenter, "predict", slow)
    for seconds in (1.0, 2.0, 3.0, 4.0):
        detector.segment(FRAME, seconds)
        detector.spin_for(0.1)
    started = time.monotonic()
    assert detector.set_parameters(threshold=0.7) == (True, "")
    assert detector.state() == "active"
    assert time.monotonic() - started < 1.0
    assert detector.received["labels"] == []  # the first frame is still at work
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


# Lifecycle and ~/enable.


def test_lifecycle_without_autostart(start_detector):
    detector = start_detector(wait_active=False, autostart=False)
    detector.listen("labels")
    assert detector.state() == "unconfigured"
    for round_trip in (1.0, 2.0):
        for transition, state in [("configure", "inactive"), ("activate", "active")]:
            assert detector.change_state(transition)
            assert detector.state() == state
        detector.wait_connected()
        detector.segment(FRAME, round_trip)
        detector.wait_for("labels", round_trip)
        assert detector.change_state("deactivate")
        detector.spin_until(lambda: not detector.images.get_subscription_count())
        assert detector.change_state("cleanup")
        detector.spin_until(lambda: not detector.count_publishers("/detector/labels"))
        assert detector.node._segmenter is None
    assert detector.state() == "unconfigured"


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"model": "/nowhere/model.safetensors"}, "/nowhere/model.safetensors"),
        ({"device": "cuda:97"}, "cuda:97"),
        ({"device": "abacus"}, "abacus"),
        ({"inference_height": 64}, "'inference_height' and 'inference_width'"),
        ({"inference_height": 63, "inference_width": 96}, "63"),
        ({"score_method": "dense_hybrid"}, "no 'dense_hybrid'"),
        ({"tile_height": 0}, "'tile_height' and 'tile_width'"),
        (
            {"inference_mode": "full", "inference_height": 64, "inference_width": 96},
            "mode 'full' keeps the frame's own size",
        ),
        (
            {"inference_mode": "tiled", "tile_height": 100, "tile_width": 96},
            "tile size 100 x 96",
        ),
    ],
)
def test_failed_configure_leaves_the_node_alive(start_detector, parameters, words):
    detector = start_detector(wait_active=False, **parameters)
    values = detector.wait_for_diagnostic("model", "message", "configure failed: ")
    assert words in values["message"]
    assert values["level"] == 2
    assert detector.state() == "unconfigured"


def test_configure_succeeds_after_the_model_is_corrected(start_detector, tiny_model):
    detector = start_detector(wait_active=False, model="/nowhere")
    detector.wait_for_diagnostic("model", "message", "configure failed: ")
    assert detector.set_parameters(model=str(tiny_model)) == (True, "")
    assert detector.change_state("configure")
    assert detector.change_state("activate")
    detector.wait_for_diagnostic("model", "message", "active")


def test_enable(start_detector):
    detector = start_detector()
    detector.listen("labels")
    detector.wait_connected()
    assert detector.enable(False) == "disabled, active"
    detector.spin_until(lambda: not detector.images.get_subscription_count())
    assert detector.wait_for_diagnostic("model", "enabled", "False")["message"].endswith(
        "disabled"
    )
    assert detector.enable(True) == "enabled, active"
    detector.wait_connected()
    detector.segment(FRAME, 1.0)
    detector.wait_for("labels", 1.0)


def test_enable_is_remembered_while_inactive(start_detector):
    detector = start_detector(wait_active=False, autostart=False)
    assert detector.enable(False) == "disabled, unconfigured"
    assert detector.change_state("configure")
    assert detector.change_state("activate")
    detector.spin_for(0.3)
    assert detector.images.get_subscription_count() == 0


def test_impossible_transitions_are_refused(start_detector):
    detector = start_detector()
    for transition in ("activate", "configure", "cleanup"):
        assert not detector.change_state(transition)
    assert detector.state() == "active"


# Parameters.


@pytest.fixture
def active_detector(start_detector):
    """A detector for this test alone: two of one name in one graph would answer for each other."""
    return start_detector()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"threshold": 1}, "DOUBLE"),
        ({"overlay_alpha": -0.1}, "overlay_alpha"),
        ({"jpeg_quality": 101}, "jpeg_quality"),
        ({"max_rate": "fast"}, "DOUBLE"),
        ({"score_method": "magic"}, "'score_method' must be one of auto, msp"),
        ({"score_method": "sml"}, "model 'tiny' has no 'sml'"),
        ({"score_method": "dense_hybrid"}, "model 'tiny' has no 'dense_hybrid'"),
        ({"score_method": "max_min_logit", "target_tpr": 0.9}, "calibration on unknown objects"),
        ({"target_tpr": 0.999}, "target_tpr"),
        ({"model": "default"}, "clean up the node first"),
        ({"device": "cpu"}, "while the node is active"),
        ({"image_transport": "compressed"}, "deactivate the node first"),
        ({"threshold": 0.2, "jpeg_quality": 0}, "jpeg_quality"),
    ],
)
def test_changes_refused_while_active(active_detector, change, words):
    detector = active_detector
    before = {name: detector.get_parameter_of_detector(name) for name in change}
    accepted, reason = detector.set_parameters(**change)
    assert not accepted
    assert words in reason
    assert {name: detector.get_parameter_of_detector(name) for name in change} == before


def test_changes_between_frames(start_detector, segmenter):
    detector = start_detector()
    detector.listen("ood_score", "open_set_mask")
    detector.wait_connected()
    raw = segmenter.predict(FRAME, scores=("entropy",)).scores["entropy"]
    calibration = segmenter.metadata.calibration["entropy"]
    score = calibration.to_unit(raw)
    steps = [
        ({"score_method": "entropy", "threshold": 0.4}, 0.4),
        ({"target_tpr": 0.9}, calibration.threshold_for_tpr(0.9)),
        ({"target_tpr": 0.0}, 0.4),
        ({"threshold": 0.0}, 0.0),
    ]
    for seconds, (change, threshold) in enumerate(steps):
        assert detector.set_parameters(**change) == (True, "")
        detector.segment(FRAME, float(seconds))
        np.testing.assert_array_equal(
            array_of(detector.wait_for("ood_score", float(seconds))), score
        )
        mask = array_of(detector.wait_for("open_set_mask", float(seconds)))
        np.testing.assert_array_equal(mask != 0, score >= np.float32(threshold))
        detector.wait_for_diagnostic("model", "threshold", f"{threshold:.6g}")


def test_input_parameters_change_while_inactive(start_detector):
    detector = start_detector()
    assert detector.change_state("deactivate")
    accepted, _ = detector.set_parameters(qos_reliability="reliable", qos_depth=3)
    assert accepted
    refused, reason = detector.set_parameters(model="erfnet")
    assert not refused
    assert "while the node is inactive" in reason
    assert detector.change_state("activate")

    def reliabilities() -> list[str]:
        found = detector.get_subscriptions_info_by_topic("/image")
        return [subscriber.qos_profile.reliability.name for subscriber in found]

    # The subscriber from before the deactivation may linger in the graph for a moment.
    detector.spin_until(lambda: reliabilities() == ["RELIABLE"], "one reliable subscriber")


def test_tools_can_describe_parameters(active_detector):
    descriptor = active_detector.describe("threshold")
    (limits,) = descriptor.floating_point_range
    assert (limits.from_value, limits.to_value) == (0.0, 1.0)
    assert "unknown" in descriptor.description


def test_parameters_of_no_known_type_or_no_name_are_refused(active_detector):
    detector = active_detector
    odd = ParameterMessage(name="threshold", value=ParameterValue(type=77))
    request = SetParametersAtomically.Request(parameters=[odd])
    result = detector.call(SetParametersAtomically, "set_parameters_atomically", request).result
    assert not result.successful
    assert "77" in result.reason
    results = detector.call(
        SetParameters, "set_parameters", SetParameters.Request(parameters=[odd, odd])
    ).results
    assert [answer.successful for answer in results] == [False, False]
    nameless = ParameterMessage(value=ParameterValue(type=ParameterType.PARAMETER_DOUBLE))
    request = SetParametersAtomically.Request(parameters=[nameless])
    result = detector.call(SetParametersAtomically, "set_parameters_atomically", request).result
    assert not result.successful
    assert "without a name" in result.reason
    assert detector.set_parameters(threshold=0.25) == (True, "")


# QoS.


def test_incompatible_partners_show_in_diagnostics(start_detector):
    detector = start_detector(qos_reliability="reliable")
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    detector.listen("labels", qos=latched)
    detector.create_publisher(type(image_message(FRAME, "rgb8", stamped(0))), "/image",
                              BEST_EFFORT)  # fmt: skip
    key = "incompatible QoS: /detector/labels"
    values = detector.wait_for_diagnostic("input", key, "1 incompatible")
    assert "DURABILITY" in values[key]
    values = detector.wait_for_diagnostic("input", "incompatible QoS: /image", "1 incompatible")
    assert "RELIABILITY" in values["incompatible QoS: /image"]
    assert values["level"] == 1


def test_best_effort_subscribers_and_publishers_are_served(start_detector):
    detector = start_detector()
    detector.listen("labels", qos=BEST_EFFORT)
    best_effort = detector.create_publisher(
        type(image_message(FRAME, "rgb8", stamped(0))), "/image", BEST_EFFORT
    )
    detector.wait_connected()
    detector.spin_until(best_effort.get_subscription_count)
    best_effort.publish(image_message(cv2.flip(FRAME, 1), "rgb8", stamped(1.0)))
    detector.wait_for("labels", 1.0)

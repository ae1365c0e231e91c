# SPDX-License-Identifier: Apache-2.0
"""Frames and partners that a running node has to survive, over real DDS."""

from __future__ import annotations

import array

import cv2
import numpy as np
import pytest
from detector_harness import BEST_EFFORT, array_of, seconds_of, stamped, street
from rclpy.qos import DurabilityPolicy, QoSProfile

from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.ros.messages import image_message

pytestmark = pytest.mark.ros

FRAME = street(48, 80)  # not square, and not the network's 64 x 96


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
    detector.listen("labels")
    detector.wait_connected()
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

        def fail(self, images, request):
            raise RuntimeError("CUDA out of memory")

        patch.setattr(Segmenter, "segment", fail)
        detector.segment(FRAME, 1.0)
        reason = detector.wait_for_diagnostic("input", "failed", "1")
    assert reason["fault: inference: RuntimeError"] == "1, last: CUDA out of memory"
    detector.segment(FRAME, 2.0)
    detector.wait_for("labels", 2.0)
    assert detector.state() == "active"


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

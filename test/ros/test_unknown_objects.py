# SPDX-License-Identifier: Apache-2.0
"""~/unknown_objects over DDS: the regions of the very score that the node publishes."""

from __future__ import annotations

import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from detector_harness import array_of, stamped
from sensor_msgs.msg import CameraInfo

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.objects.rates import ObjectRates
from anomaly_seg_ros.objects.regions import ObjectRule, find_objects
from anomaly_seg_ros.ros.objects import Mounting, object_settings
from anomaly_seg_ros.ros.parameters import read_defaults

UNKNOWN = 5  # of the five classes of the tiny model
RATES = ObjectRates("energy", ObjectRule(), (0.0, 0.55, 0.6), (3.0, 0.5, 0.1), (0.9, 0.7, 0.5))


def patches(seed: int = 0) -> np.ndarray:
    """Large patches of colour, so that the tiny network's score has regions."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), np.uint8)
    return cv2.resize(coarse, (96, 64), interpolation=cv2.INTER_NEAREST)


def boxes(message: object) -> list[tuple[float, ...]]:
    """(left, top, width, height) of each detection in pixels."""
    found = []
    for detection in message.detections:
        box, centre = detection.bbox, detection.bbox.center.position
        left, top = centre.x - (box.size_x - 1) / 2, centre.y - (box.size_y - 1) / 2
        found.append((left, top, box.size_x, box.size_y))
        assert detection.header == message.header
    return found


@pytest.fixture
def detector(start_detector) -> object:
    """A detector with a threshold at which the score of the patches has many regions."""
    pytest.importorskip("vision_msgs.msg", reason="tools/build_messages.sh builds it")
    started = start_detector(object_birth=1, object_min_area=12)
    started.listen("unknown_objects", "ood_score", "labels", "camera_info")
    started.wait_connected()
    started.segment(patches(), 0.5)
    high = float(np.quantile(array_of(started.wait_for("ood_score", 0.5)), 0.65))
    accepted = started.set_parameters(threshold=high, object_low_threshold=high)
    assert accepted == (True, "")
    started.rule = ObjectRule(high, high, 12)
    return started


@pytest.mark.ros
def test_detections_are_the_regions_of_the_published_score(detector):
    frame = patches()
    found = {}
    for seconds in (21.0, 21.125):  # long after the frame of the fixture
        detector.segment(frame, seconds)
        found[seconds] = detector.wait_for("unknown_objects", seconds)
    score = array_of(detector.wait_for("ood_score", 21.0))
    labels = array_of(detector.wait_for("labels", 21.0))
    objects = find_objects(score, detector.rule, labels)
    assert len(objects) > 3
    message = found[21.0]
    assert message.header.frame_id == "camera_optical_frame"
    assert boxes(message) == [tuple(map(float, o.box)) for o in objects]
    for detection, unknown in zip(message.detections, objects, strict=True):
        hypotheses = [(r.hypothesis.class_id, r.hypothesis.score) for r in detection.results]
        assert hypotheses == [
            (str(UNKNOWN), pytest.approx(unknown.score)),
            (str(unknown.class_id), pytest.approx(unknown.class_share)),
        ]
    # The same picture again: the same objects under the same ids.
    ids = [int(detection.id) for detection in message.detections]
    assert len(set(ids)) == len(ids)
    assert [int(detection.id) for detection in found[21.125].detections] == ids

    # Parameters hold from the next frame on.
    cut = objects[0].score - 1e-6
    assert detector.set_parameters(object_min_score=cut) == (True, "")
    detector.segment(frame, 21.25)
    assert boxes(detector.wait_for("unknown_objects", 21.25)) == boxes(message)[:1]
    assert detector.set_parameters(object_min_score=0.0, object_birth=2) == (True, "")
    detector.segment(frame, 49.0)
    assert boxes(detector.wait_for("unknown_objects", 49.0)) == []
    accepted, reason = detector.set_parameters(object_false_alarms=0.5)
    assert not accepted
    assert "'object_false_alarms': needs a calibration on unknown objects" in reason


@pytest.mark.ros
def test_size_in_metres_needs_calibration_and_mounting(detector):
    assert detector.set_parameters(object_min_size=50.0, camera_height=1.5) == (True, "")
    detector.segment(patches(), 1.0)
    everything = boxes(detector.wait_for("unknown_objects", 1.0))
    info = CameraInfo(header=stamped(1.5), height=64, width=96)
    info.k = [60.0, 0.0, 48.0, 0.0, 60.0, 20.0, 0.0, 0.0, 1.0]
    seconds = 2.0

    def answer() -> list[tuple[float, ...]]:
        nonlocal seconds
        seconds += 1.0
        detector.infos.publish(info)
        detector.spin_for(0.2)
        detector.segment(patches(), seconds)
        return boxes(detector.wait_for("unknown_objects", seconds))

    detector.spin_until(detector.infos.get_subscription_count, "camera_info")
    detector.spin_until(lambda: answer() != everything, "objects below 50 m are left out")
    # Nothing on this road is 50 m large; above the horizon nobody knows.
    assert all(top + height - 1 <= 20 for _, top, _, height in answer())
    assert any(top + height - 1 > 20 for _, top, _, height in everything)
    info.height = 128  # a calibration of another size says nothing
    detector.spin_until(lambda: answer() == everything, "all objects again")


def settings_with(rates: ObjectRates | None, threshold: float = 0.5, **changes: float) -> object:
    values = {**read_defaults(), "object_false_alarms": 0.5, **changes}
    return object_settings(values, SimpleNamespace(object_rates=rates), "energy", threshold)


def test_a_rate_of_false_alarms_takes_the_place_of_the_smallest_score():
    assert settings_with(RATES).rule == ObjectRule(min_score=0.55)
    assert settings_with(RATES, object_false_alarms=0.3).rule.min_score == 0.6
    assert (
        settings_with(RATES, object_false_alarms=0.0, object_min_score=0.7).rule.min_score == 0.7
    )
    assert settings_with(RATES, object_min_area=400).rule.min_area == 400


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"object_false_alarms": 0.05}, "fewer than the 0.1 that the model's calibration"),
        ({"object_min_area": 50}, "with smallest area 100, not 50"),
        ({"object_low_threshold": 0.3}, "with low threshold 0.45, not 0.3"),
        ({"threshold": 0.6}, "with threshold 0.5, not 0.6"),
    ],
)
def test_rates_that_were_not_measured_are_refused(changes: dict[str, float], words: str):
    with pytest.raises(ParameterError, match=f"'object_false_alarms': .*{words}"):
        settings_with(RATES, **changes)


def test_rates_of_another_score_are_refused():
    rates = ObjectRates(**{**vars(RATES), "score": "msp"})
    with pytest.raises(ParameterError, match="with score msp, not energy"):
        settings_with(rates)


def test_defaults_are_those_that_models_are_calibrated_with():
    settings = settings_with(None, object_false_alarms=0.0)
    assert settings.rule == ObjectRule()
    assert settings.mounting == Mounting(0.0, 0.0)


def test_the_road_is_known_from_calibration_and_mounting():
    info = CameraInfo(height=512, width=1024)
    info.k = [1100.0, 0.0, 512.0, 0.0, 1000.0, 256.0, 0.0, 0.0, 1.0]
    mounting = settings_with(
        None, object_false_alarms=0.0, camera_height=1.3, camera_pitch=2.0
    ).mounting
    ground = mounting.ground_plane(info, (512, 1024))
    assert (ground.fy, ground.cy, ground.height_m) == (1000.0, 256.0, 1.3)
    assert ground.pitch_down == pytest.approx(math.radians(2))
    assert mounting.ground_plane(None, (512, 1024)) is None
    assert mounting.ground_plane(info, (256, 1024)) is None
    assert mounting.ground_plane(CameraInfo(height=512, width=1024), (512, 1024)) is None
    assert Mounting(0.0, 0.0).ground_plane(info, (512, 1024)) is None

# SPDX-License-Identifier: Apache-2.0
"""One node with two cameras, over DDS."""

from __future__ import annotations

import numpy as np
import pytest
from detector_harness import DetectorHarness, array_of, seconds_of, stamped, street
from sensor_msgs.msg import CameraInfo, Image

from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.ros.messages import image_message

pytestmark = pytest.mark.ros

NAMES = ["front", "rear"]
FRAMES = {"front": street(48, 80, seed=1), "rear": street(60, 70, seed=2)}
TOPICS = ("labels", "ood_score")


class Cameras:
    """A publisher and a list of answers for each camera of a detector."""

    def __init__(self, detector: DetectorHarness) -> None:
        self.detector = detector
        probe = detector.probe
        self.images, self.infos = {}, {}
        for name in NAMES:
            self.images[name] = probe.create_publisher(Image, f"/{name}/image", 10)
            self.infos[name] = probe.create_publisher(CameraInfo, f"/{name}/camera_info", 10)
            for topic in TOPICS:
                arrived = probe.received.setdefault(f"{name}/{topic}", [])
                probe.create_subscription(Image, f"/detector/{name}/{topic}", arrived.append, 10)
        self.wait_connected()

    def wait_connected(self) -> None:
        for publisher in (*self.images.values(), *self.infos.values()):
            self.detector.spin_until(publisher.get_subscription_count, publisher.topic_name)
        self.detector.spin_until(
            lambda: all(
                self.detector.node._outputs[camera].wanted() >= set(TOPICS)
                for camera in self.detector.node._cameras
            ),
            "the detector finds our subscriptions",
        )

    def send(self, name: str, seconds: float, **fields: object) -> None:
        message = image_message(FRAMES[name], "rgb8", stamped(seconds, f"{name}_optical"))
        for field, value in fields.items():
            setattr(message, field, value)
        self.images[name].publish(message)

    def wait_for(self, name: str, topic: str, seconds: float) -> Image:
        return self.detector.wait_for(f"{name}/{topic}", seconds)


@pytest.fixture
def start_cameras(start_detector):
    def start(**parameters: object) -> Cameras:
        return Cameras(start_detector(cameras=NAMES, **parameters))

    return start


def test_each_camera_has_its_own_answers_headers_and_counts(start_cameras, tiny_model):
    cameras = start_cameras(score_method="energy")
    detector = cameras.detector
    segmenter = Segmenter.load(tiny_model)
    calibration = segmenter.metadata.calibration["energy"]
    for seconds in (1.0, 2.0):
        cameras.send("front", seconds)
        cameras.send("rear", seconds + 0.25)
        for name, stamp in (("front", seconds), ("rear", seconds + 0.25)):
            labels = cameras.wait_for(name, "labels", stamp)
            score = cameras.wait_for(name, "ood_score", stamp)
            assert labels.header.frame_id == score.header.frame_id == f"{name}_optical"
            expected = segmenter.predict(FRAMES[name], scores=("energy",))
            np.testing.assert_array_equal(array_of(labels), expected.labels)
            unit = calibration.to_unit(expected.scores["energy"])
            np.testing.assert_allclose(array_of(score), unit, atol=1e-5)
    for name in NAMES:
        values = detector.wait_for_diagnostic(f"input {name}", "processed", "2")
        assert (values["received"], values["topic"]) == ("2", f"/{name}/image")
    assert detector.wait_for_diagnostic("input", "processed", "4")["received"] == "4"
    # Nothing of a node with one camera is there.
    topics = {name for name, _ in detector.get_topic_names_and_types()}
    assert "/image" not in topics - {detector.images.topic_name}
    assert "/detector/labels" not in topics
    assert "/detector/rear/overlay/compressed" in topics


def test_frames_that_wait_together_are_one_batch(start_cameras, monkeypatch):
    cameras = start_cameras(batch_wait_ms=10000.0)
    sizes = []
    segment = Segmenter.segment

    def spy(self, images, request):
        sizes.append(len(images))
        return segment(self, images, request)

    monkeypatch.setattr(Segmenter, "segment", spy)
    cameras.send("rear", 1.0)
    cameras.detector.spin_for(0.3)
    assert sizes == []
    cameras.send("front", 1.5)
    cameras.wait_for("rear", "labels", 1.0)
    cameras.wait_for("front", "labels", 1.5)
    assert sizes == [2]


def test_a_bad_frame_of_one_leaves_the_other_alone(start_cameras):
    cameras = start_cameras(batch_wait_ms=10000.0, late_after=0.0, frame_timeout=0.0)
    cameras.send("front", 1.0, encoding="rgb7")
    cameras.send("rear", 1.0)
    cameras.wait_for("rear", "labels", 1.0)
    values = cameras.detector.wait_for_diagnostic("input front", "bad", "1")
    assert values["level"] == 1
    assert values["fault: unknown encoding"].startswith("1, last: ")
    rear = cameras.detector.wait_for_diagnostic("input rear", "processed", "1")
    assert (rear["level"], rear["bad"]) == (0, "0")
    together = cameras.detector.diagnostic("input")
    assert together["fault: unknown encoding on front"] == values["fault: unknown encoding"]
    assert together["level"] == 1


def test_a_frame_that_the_network_fails_on_leaves_the_other_of_its_pass_alone(
    start_cameras, on_forward
):
    cameras = start_cameras(batch_wait_ms=10000.0, late_after=0.0, frame_timeout=0.0)
    passes = []

    def dislike_white(frames):
        passes.append(len(frames))
        if (frames > 1.9).flatten(1).all(1).any():
            raise RuntimeError("too bright")

    on_forward(dislike_white)
    cameras.send("front", 1.0, data=b"\xff" * FRAMES["front"].size)
    cameras.send("rear", 1.5)
    cameras.wait_for("rear", "labels", 1.5)
    assert passes == [2, 1, 1]
    values = cameras.detector.wait_for_diagnostic("input front", "failed", "1")
    assert "too bright" in values["fault: inference: RuntimeError"]
    rear = cameras.detector.wait_for_diagnostic("input rear", "processed", "1")
    assert (rear["level"], rear["failed"]) == (0, "0")


def test_frames_that_only_fail_together_go_on_one_by_one(start_cameras, on_forward, capfd):
    cameras = start_cameras(batch_wait_ms=10000.0)

    def dislike_batches(frames):
        if len(frames) > 1:
            raise RuntimeError("no batches")

    on_forward(dislike_batches)
    for seconds in (1.0, 2.0):
        for name in NAMES:
            cameras.send(name, seconds)
        for name in NAMES:
            cameras.wait_for(name, "labels", seconds)
    told = "one by one now; together: RuntimeError: no batches"
    assert "".join(capfd.readouterr()).count(told) == 1
    assert cameras.detector.wait_for_diagnostic("input", "processed", "4")["failed"] == "0"


def test_a_camera_that_falls_silent_is_named_while_the_other_goes_on(start_cameras):
    cameras = start_cameras(frame_timeout=0.5, late_after=0.0)
    detector = cameras.detector
    stamps = iter(range(1, 10**6))

    def silent() -> bool:
        cameras.send("front", float(next(stamps)))
        message = detector.diagnostic("input rear").get("message", "")
        return message.startswith("no frames on /rear/image")

    detector.spin_until(silent, "the silent camera is told")
    detector.wait_for_diagnostic("input front", "message", "frames arrive")
    assert "/rear/image" in detector.diagnostic("input")["message"]


def test_camera_info_of_each(start_cameras):
    cameras = start_cameras()
    detector = cameras.detector
    got = {name: [] for name in NAMES}
    for name, arrived in got.items():
        detector.create_subscription(
            CameraInfo, f"/detector/{name}/camera_info", arrived.append, 10
        )
        cameras.infos[name].publish(CameraInfo(width=len(name)))
    by_name = {camera.name: camera for camera in detector.node._cameras}
    detector.spin_until(
        lambda: all(
            by_name[name].camera_info is not None
            and "camera_info" in detector.node._outputs[by_name[name]].wanted()
            for name in NAMES
        )
    )
    for name in NAMES:
        cameras.send(name, 3.0)
    detector.spin_until(lambda: all(got.values()))
    for name in NAMES:
        assert (got[name][0].width, seconds_of(got[name][0])) == (len(name), 3.0)


def test_pause_and_transitions_hold_for_all(start_cameras):
    cameras = start_cameras()
    detector = cameras.detector
    detector.enable(False)
    detector.spin_until(
        lambda: not any(p.get_subscription_count() for p in cameras.images.values())
    )
    detector.enable(True)
    assert detector.change_state("deactivate")
    assert detector.set_parameters(batch_wait_ms=5.0) == (True, "")
    refused, reason = detector.set_parameters(cameras=["left"])
    assert not refused
    assert "clean up the node first" in reason
    assert detector.change_state("cleanup")
    refused, reason = detector.set_parameters(cameras=["left", "left"])
    assert not refused
    assert "comes twice" in reason
    assert detector.set_parameters(cameras=[""]) == (True, "")
    assert detector.change_state("configure")
    assert detector.change_state("activate")
    detector.received.clear()
    detector.listen("labels")
    detector.wait_connected()
    detector.segment(FRAMES["front"], 9.0)
    detector.wait_for("labels", 9.0)

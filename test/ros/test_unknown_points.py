# SPDX-License-Identifier: Apache-2.0
"""~/unknown_points: over DDS the points of the core's geometry, or one line that says why not."""

from __future__ import annotations

import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from detector_harness import BEST_EFFORT, DetectorHarness, array_of, stamped
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.objects.points import (
    POINT,
    Pinhole,
    PointRule,
    Road,
    points_at_depth,
    points_on_road,
)
from anomaly_seg_ros.objects.regions import Box, ObjectRule, UnknownObject, find_objects
from anomaly_seg_ros.objects.tracker import TrackedObject
from anomaly_seg_ros.ros import camera_pose
from anomaly_seg_ros.ros.camera_pose import CameraPose
from anomaly_seg_ros.ros.objects import Mounting
from anomaly_seg_ros.ros.points import PointSettings, point_cloud
from anomaly_seg_ros.ros.range_maps import (
    DEPTH,
    DISPARITY,
    GROUND,
    PointsError,
    RangeMaps,
    read_depth,
    read_disparity,
)

H, W = 64, 96
K = [60.0, 0.0, 48.0, 0.0, 60.0, 20.0, 0.0, 0.0, 1.0]
CAMERA = Pinhole(60.0, 60.0, 48.0, 20.0)
RULE = PointRule(30.0, 5.0, math.radians(0.5), 0.5)  # of detector.yaml


def patches(seed: int = 0) -> np.ndarray:
    """Large patches of colour, so that the tiny network's score has regions."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), np.uint8)
    return cv2.resize(coarse, (W, H), interpolation=cv2.INTER_NEAREST)


def info(**changes: object) -> CameraInfo:
    return CameraInfo(**{"header": stamped(0.5), "height": H, "width": W, "k": K} | changes)


def points_of(message: PointCloud2) -> np.ndarray:
    """The records of a cloud, by its own description."""
    kinds = {6: "u4", 7: "f4"}  # PointField.UINT32 and FLOAT32
    order = ">" if message.is_bigendian else "<"
    layout = np.dtype(
        {
            "names": [field.name for field in message.fields],
            "formats": [f"{order}{kinds[field.datatype]}" for field in message.fields],
            "offsets": [field.offset for field in message.fields],
            "itemsize": message.point_step,
        }
    )
    assert message.row_step == message.point_step * message.width == len(message.data)
    return np.frombuffer(message.data, layout)


@pytest.fixture
def detector(start_detector) -> DetectorHarness:
    """A detector with a threshold at which the score of the patches has regions on the road."""
    started = start_detector(object_birth=1, object_min_area=12, camera_height=1.4)
    started.listen("unknown_points", "ood_score", "camera_info")
    started.wait_connected()
    started.spin_until(started.infos.get_subscription_count, "camera_info")
    started.infos.publish(info())
    seconds = 0.5
    while not started.received["camera_info"]:
        seconds += 1
        started.segment(patches(), seconds)
        started.wait_for("ood_score", seconds)
        started.spin_for(0.1)
    high = float(np.quantile(array_of(started.wait_for("ood_score", seconds)), 0.65))
    accepted = started.set_parameters(threshold=high, object_low_threshold=high)
    assert accepted == (True, "")
    started.rule = ObjectRule(high, high, 12)
    return started


def tracked_of(detector: DetectorHarness, seconds: float, ids: np.ndarray) -> list[TrackedObject]:
    """The objects of a published score, with the ids that the cloud gives them."""
    objects = find_objects(array_of(detector.wait_for("ood_score", seconds)), detector.rule)
    # The cloud lists the objects in this order; those without points are missing in it.
    numbers = iter(dict.fromkeys(ids.tolist()))
    return [
        TrackedObject(next(numbers), unknown)
        for unknown in objects
        if len(points_on_road([TrackedObject(0, unknown)], CAMERA, ROAD, RULE))
    ]


ROAD = Road.below(1.4, 0.0)


@pytest.mark.ros
def test_the_cloud_is_that_of_the_objects_on_the_road(detector):
    detector.segment(patches(), 50.0)
    message = detector.wait_for("unknown_points", 50.0)
    assert message.header == stamped(50.0)
    points = points_of(message)
    expected = points_on_road(tracked_of(detector, 50.0, points["id"]), CAMERA, ROAD, RULE)
    assert len(set(expected["id"])) > 1
    for name in POINT.names:
        np.testing.assert_array_equal(points[name], expected[name], name)
    assert detector.set_parameters(points_max_range=3.0) == (True, "")
    detector.segment(patches(), 51.0)
    near = points_of(detector.wait_for("unknown_points", 51.0))
    assert len(near) == np.count_nonzero(
        np.linalg.norm([points["x"], points["y"], points["z"]], axis=0) <= 3.0
    )


@pytest.mark.ros
def test_depth_is_only_listened_to_while_it_is_needed(detector):
    probe = detector.probe
    publisher = probe.create_publisher(Image, "/depth", BEST_EFFORT)
    assert publisher.get_subscription_count() == 0
    assert detector.set_parameters(points_source="depth") == (True, "")
    detector.spin_until(publisher.get_subscription_count, "the detector subscribes to depth")
    metres = np.tile(np.linspace(2, 4, W, dtype=np.float32), (H, 1))
    depth = Image(header=stamped(60.004), height=H, width=W, encoding="32FC1", step=4 * W)
    depth.data.frombytes(metres.tobytes())
    publisher.publish(depth)
    detector.spin_for(0.3)
    detector.segment(patches(), 60.0)
    points = points_of(detector.wait_for("unknown_points", 60.0))
    columns = CAMERA.cx + CAMERA.fx * points["x"] / points["z"]
    assert len(points) > 20
    np.testing.assert_allclose(points["z"], metres[0][columns.round().astype(int)], rtol=1e-5)
    # Without depth for a frame its other outputs go on, and the node says why once.
    detector.segment(patches(), 62.0)
    detector.wait_for("ood_score", 62.0)
    detector.wait_for_diagnostic(
        "input", "fault: points: depth of another stamp", "1, last: the nearest depth on /depth"
    )
    assert detector.set_parameters(points_source="ground") == (True, "")
    detector.spin_until(lambda: publisher.get_subscription_count() == 0, "it stops listening")
    probe.destroy_publisher(publisher)


@pytest.mark.ros
def test_without_calibration_it_says_so_once_and_publishes_the_rest(start_detector, capfd):
    detector = start_detector(camera_height=1.4)
    detector.listen("unknown_points", "ood_score")
    detector.wait_connected()
    detector.spin_until(detector.infos.get_subscription_count, "camera_info")
    detector.infos.publish(info(k=[0.0] * 9))
    detector.spin_for(0.3)
    for seconds in (1.0, 2.0):
        detector.segment(patches(), seconds)
        detector.wait_for("ood_score", seconds)
    detector.wait_for_diagnostic("input", "fault: points: no calibration", "2, last: CameraInfo")
    assert detector.received["unknown_points"] == []
    assert capfd.readouterr().err.count("K of zeros: not calibrated") == 1


# Without a node.

TRACKED = [TrackedObject(3, UnknownObject(Box(40, 30, 8, 8), 64, 0.7, 0.9, np.ones((8, 8), bool)))]


class NoMaps(RangeMaps):
    """Depths that were put there by hand."""

    def __init__(self, *messages: object) -> None:
        super().__init__(None, lambda topic: f"/front/{topic}", None)
        self._newest.extend(messages)


def settings(source: str = GROUND, height: float = 1.4) -> PointSettings:
    return PointSettings(source, 0.01, RULE, Mounting(height, 0.0))


def place(
    source: str = GROUND, *maps: object, calibration: CameraInfo | None = None, **changes: object
) -> PointCloud2:
    calibration = info() if calibration is None else calibration
    return point_cloud(
        TRACKED, stamped(5.0, "front"), calibration, (H, W), settings(source), NoMaps(*maps),
        **changes,
    )  # fmt: skip


def depth_image(metres: float = 3.0, seconds: float = 5.0, encoding: str = "16UC1") -> Image:
    raw = {"16UC1": np.uint16(1000 * metres), "32FC1": np.float32(metres)}.get(encoding)
    values = np.full((H, W), 0 if raw is None else raw)
    step = values.strides[0]
    message = Image(header=stamped(seconds), height=H, width=W, encoding=encoding, step=step)
    message.data.frombytes(values.tobytes())
    return message


def test_millimetres_and_metres_are_the_same_depth():
    by_encoding = [points_of(place(DEPTH, depth_image(encoding=e))) for e in ("16UC1", "32FC1")]
    for axis in "xyz":
        np.testing.assert_array_equal(*(points[axis] for points in by_encoding))
    assert set(by_encoding[0]["z"]) == {3.0}
    assert np.isnan(by_encoding[0]["range_std"]).all()


def test_rows_may_be_padded_and_values_big_endian():
    values = np.arange(H * W, dtype=">u2").reshape(H, W)
    padded = np.hstack([values.view(np.uint8), np.full((H, 6), 9, np.uint8)])
    message = Image(height=H, width=W, encoding="16UC1", step=padded.shape[1], is_bigendian=True)
    message.data.frombytes(padded.tobytes())
    rows, columns = np.array([0, 0, 10, H - 1]), np.array([0, 5, 20, W - 1])
    found = read_depth(message, (H, W))(rows, columns)
    np.testing.assert_array_equal(found, [np.nan, 0.005, 0.98, (H * W - 1) / 1000])


def test_the_nearest_of_several_depths_counts():
    maps = [depth_image(metres, seconds) for metres, seconds in ((1, 4.9), (2, 5.008), (4, 5.1))]
    assert set(points_of(place(DEPTH, *maps))["z"]) == {2.0}


def test_disparity_tells_its_own_standard_deviation():
    messages = pytest.importorskip("stereo_msgs.msg", reason="requirements/ros.txt has it")
    message = messages.DisparityImage(
        header=stamped(5.0), image=depth_image(2.5, encoding="32FC1"), f=60.0, t=0.25
    )
    points = points_of(place(DISPARITY, message))
    focal_baseline, disparity = 60.0 * 0.25, 2.5
    assert set(points["z"]) == {focal_baseline / disparity}
    ray = np.linalg.norm([points["x"], points["y"], points["z"]], axis=0) / points["z"]
    # d(f b / d) = f b / d^2 of a pixel, half of which is the standard deviation.
    np.testing.assert_allclose(
        points["range_std"], 0.5 * focal_baseline / disparity**2 * ray, rtol=1e-5
    )
    reader, _ = read_disparity(message, (H, W))
    expected = points_at_depth(TRACKED, CAMERA, reader, RULE)
    np.testing.assert_array_equal(points["x"], expected["x"])
    message.min_disparity = 3.0
    assert place(DISPARITY, message).width == 0
    message.t = 0.0
    with pytest.raises(PointsError, match=r"f is 60\.0 and t is 0\.0: not calibrated"):
        place(DISPARITY, message)
    message.t, message.image = 0.25, depth_image()
    with pytest.raises(PointsError, match="the disparity is '16UC1', not 32FC1"):
        place(DISPARITY, message)


def test_no_objects_are_an_empty_cloud():
    message = point_cloud([], stamped(5.0), info(), (H, W), settings(), NoMaps())
    assert (message.width, message.height, len(message.data)) == (0, 1, 0)
    assert len(points_of(message)) == 0


SMALL = Image(header=stamped(5.0), height=4, width=6, encoding="16UC1", step=12)
CUT = Image(header=stamped(5.0), height=H, width=W, encoding="16UC1", step=2 * W)


@pytest.mark.parametrize(
    ("arguments", "kind", "line"),
    [
        ((GROUND, None), "no calibration", "no CameraInfo has arrived"),
        ((GROUND, info(k=[0.0] * 9)), "no calibration", "CameraInfo has a K of zeros"),
        ((GROUND, info(k=[1.0] * 4 + [-1.0] * 5)), "no calibration", "fy must be positive"),
        ((GROUND, info(k=[math.nan] * 9)), "no calibration", "fx must be positive, got nan"),
        ((GROUND, info(k=[1.0, 0, math.inf, 0, 1, 0, 0, 0, 1])), "no calibration", "be finite"),
        (
            (GROUND, info(height=H * 2)),
            "calibration of another size",
            "CameraInfo is for 96x128, the frame is 96x64",
        ),
        ((DEPTH, info()), "no depth", "nothing has arrived on /front/depth"),
        (
            (DEPTH, info(), depth_image(seconds=5.5), depth_image(seconds=4.8)),
            "depth of another stamp",
            "the nearest depth on /front/depth is 0.200 s from the frame, depth_slop allows 0.010",
        ),
        (
            (DEPTH, info(), SMALL),
            "depth of another size",
            "the depth is 6x4, the frame 96x64: it must be registered to the camera's image",
        ),
        ((DEPTH, info(), depth_image(encoding="mono8")), "depth encoding", "'mono8', not 16UC1"),
        ((DEPTH, info(), CUT), "depth data", "has 0 bytes in rows of 192, too few for 96x64"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line(arguments, kind, line):
    source, calibration, *maps = arguments
    with pytest.raises(PointsError) as caught:
        point_cloud(TRACKED, stamped(5.0), calibration, (H, W), settings(source), NoMaps(*maps))
    assert caught.value.kind == f"points: {kind}"
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_road_needs_a_mounting():
    with pytest.raises(PointsError, match="camera_height is 0: set it and camera_pitch") as caught:
        point_cloud(TRACKED, stamped(5.0), info(), (H, W), settings(height=0.0), NoMaps())
    assert caught.value.kind == "points: no mounting"


# tf, whose package is not among the wheels: what is asked of it, and what becomes of its answers.


class Tf2:
    """The part of tf2_ros that is used, with one pose: the camera looks ahead from 1.4 m."""

    class TransformException(Exception):  # noqa: N818 - tf2's name
        pass

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Time]] = []
        self.listening = 0
        self.height = 1.4

    def Buffer(self) -> Tf2:  # noqa: N802 - tf2's name
        return self

    def TransformListener(self, buffer: Tf2, node: object) -> Tf2:  # noqa: N802
        self.listening += 1
        return self

    def unregister(self) -> None:
        self.listening -= 1

    def lookup_transform(self, target: str, source: str, time: object) -> object:
        self.asked.append((target, source, time.to_msg()))
        if source != "front":
            raise self.TransformException(f'"{source}" does\nnot exist')
        half = math.sqrt(0.5)
        turn = SimpleNamespace(x=-half * half, y=half * half, z=-half * half, w=half * half)
        shift = SimpleNamespace(x=2.0, y=0.0, z=self.height)
        return SimpleNamespace(transform=SimpleNamespace(rotation=turn, translation=shift))


@pytest.fixture
def tf2(monkeypatch: pytest.MonkeyPatch) -> Tf2:
    stand_in = Tf2()
    monkeypatch.setattr(camera_pose, "tf2_ros", stand_in)
    return stand_in


def test_points_in_another_frame_stand_on_its_plane(tf2):
    pose = CameraPose(None, "base_footprint")
    message = place(pose=pose)
    assert tf2.asked == [("base_footprint", "front", stamped(5.0).stamp)]
    assert message.header.frame_id == "base_footprint"
    points, own = points_of(message), points_of(place())
    # REP 103: x ahead, y left, z up; the camera is 2 m ahead of the frame.
    np.testing.assert_allclose(points["x"], own["z"] + 2, rtol=1e-5)
    np.testing.assert_allclose(points["y"], -own["x"], atol=1e-5)
    np.testing.assert_allclose(points["z"], 1.4 - own["y"], atol=1e-5)
    assert points["z"].min() == pytest.approx(0, abs=1e-5)
    pose.close()
    assert tf2.listening == 0


def test_what_tf_does_not_know_is_one_line(tf2):
    pose = CameraPose(None, "base_footprint")
    with pytest.raises(PointsError, match='rear in base_footprint: "rear" does not exist'):
        pose(stamped(5.0, "rear"))
    tf2.height = -0.2
    with pytest.raises(PointsError, match=r"points_frame: .* not at a height of -0\.2 m"):
        place(pose=pose)


@pytest.mark.skipif(camera_pose.tf2_ros is not None, reason="tf2_ros is installed")
def test_a_frame_without_tf_is_refused_by_name():
    with pytest.raises(ParameterError, match=r"'points_frame' needs tf2_ros.*apt install ros-"):
        CameraPose(None, "base_footprint")

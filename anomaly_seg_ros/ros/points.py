# SPDX-License-Identifier: Apache-2.0
"""``~/unknown_points``: points on the unknown objects of a frame as sensor_msgs/PointCloud2."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sensor_msgs.msg import CameraInfo, PointCloud2, PointField
from std_msgs.msg import Header

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.objects.points import (
    POINT,
    Pinhole,
    PointRule,
    Road,
    moved,
    points_at_depth,
    points_on_road,
    std_by_disparity,
)
from anomaly_seg_ros.objects.tracker import TrackedObject
from anomaly_seg_ros.ros.camera_pose import CameraPose
from anomaly_seg_ros.ros.messages import show_data
from anomaly_seg_ros.ros.objects import Mounting
from anomaly_seg_ros.ros.range_maps import (
    DEPTH,
    DISPARITY,
    TYPES,
    PointsError,
    RangeMaps,
    read_depth,
    read_disparity,
)

_FIELD_TYPES = {np.dtype("<f4"): PointField.FLOAT32, np.dtype("<u4"): PointField.UINT32}
FIELDS = [
    PointField(name=name, offset=offset, datatype=_FIELD_TYPES[kind], count=1)
    for name, (kind, offset, *_) in (POINT.fields or {}).items()
]


@dataclass(frozen=True)
class PointSettings:
    """The parameters of positions.

    Attributes:
        source: One of :data:`~anomaly_seg_ros.ros.range_maps.SOURCES`.
        slop_s: Seconds between the stamps of a frame and of its depth or disparity.
        rule: Limits and uncertainties.
        mounting: Of the cameras, for the road.
    """

    source: str
    slop_s: float
    rule: PointRule
    mounting: Mounting


def point_settings(values: Mapping[str, Any], mounting: Mounting) -> PointSettings:
    """Read the parameters that begin with ``points_``, and those that go with them."""
    return PointSettings(
        values["points_source"],
        values["depth_slop"],
        PointRule(
            max_range_m=values["points_max_range"],
            row_std=values["points_row_std"],
            pitch_std=math.radians(values["camera_pitch_std"]),
            disparity_std=values["points_disparity_std"],
        ),
        mounting,
    )


def point_cloud(
    tracked: Sequence[TrackedObject],
    header: Header,
    camera_info: CameraInfo | None,
    shape: tuple[int, ...],
    settings: PointSettings,
    ranges: RangeMaps,
    pose: CameraPose | None = None,
) -> PointCloud2:
    """Makes the message; without objects it is empty.

    Args:
        tracked: The objects of a frame.
        header: Of the frame.
        camera_info: The camera's calibration; its K is that of the image as it comes.
        shape: (H, W) of the frame.
        settings: How objects are placed.
        ranges: The camera's depth or disparity.
        pose: Where the camera is in a frame whose plane z = 0 is the road, and that points are put
            into; None leaves them in the camera's frame, with the road from the mounting.

    Raises:
        PointsError: Objects cannot be placed; says what is missing, and what would help.
    """
    camera = _camera(camera_info, shape)
    where = None if pose is None else pose(header)
    if settings.source == DEPTH:
        depth = read_depth(ranges.near(header, DEPTH, settings.slop_s), shape)
        points = points_at_depth(tracked, camera, depth, settings.rule)
    elif settings.source == DISPARITY:
        if TYPES[DISPARITY] is None:
            raise PointsError("disparity", "stereo_msgs is not installed")
        depth, focal_baseline = read_disparity(
            ranges.near(header, DISPARITY, settings.slop_s), shape
        )
        std = std_by_disparity(focal_baseline, settings.rule)
        points = points_at_depth(tracked, camera, depth, settings.rule, std)
    else:
        points = points_on_road(tracked, camera, _road(settings.mounting, where), settings.rule)
    if pose is not None and where is not None:
        points = moved(points, *where)
        header = Header(stamp=header.stamp, frame_id=pose.frame)
    message = PointCloud2(
        header=header,
        height=1,
        width=len(points),
        fields=FIELDS,
        is_bigendian=False,
        point_step=POINT.itemsize,
        row_step=POINT.itemsize * len(points),
        is_dense=True,  # in x, y and z; range_std is NaN where it is unknown
    )
    if len(points):
        show_data(message, points.view(np.uint8))
    return message


def _camera(camera_info: CameraInfo | None, shape: tuple[int, ...]) -> Pinhole:
    if camera_info is None:
        raise PointsError("no calibration", "no CameraInfo has arrived")
    if not any(camera_info.k):
        raise PointsError("no calibration", "CameraInfo has a K of zeros: not calibrated")
    if (camera_info.height, camera_info.width) != shape[:2]:
        raise PointsError(
            "calibration of another size",
            f"CameraInfo is for {camera_info.width}x{camera_info.height}, the frame is "
            f"{shape[1]}x{shape[0]}",
        )
    k = [float(value) for value in camera_info.k]
    try:
        return Pinhole(k[0], k[4], k[2], k[5])
    except ParameterError as error:
        raise PointsError("no calibration", f"CameraInfo: {error}") from error


def _road(mounting: Mounting, where: tuple[np.ndarray, np.ndarray] | None) -> Road:
    try:
        if where is not None:
            return Road.of_pose(*where)
    except ParameterError as error:
        raise PointsError("mounting", f"points_frame: {error}") from error
    if mounting.height_m <= 0:
        raise PointsError(
            "no mounting",
            "camera_height is 0: set it and camera_pitch, or points_source, or points_frame",
        )
    return Road.below(mounting.height_m, mounting.pitch_down)

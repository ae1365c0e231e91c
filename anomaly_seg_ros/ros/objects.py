# SPDX-License-Identifier: Apache-2.0
"""``~/unknown_objects``: the unknown objects of a frame as vision_msgs/Detection2DArray."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.labels import IGNORE_INDEX
from anomaly_seg_ros.objects.ground_plane import GroundPlane
from anomaly_seg_ros.objects.regions import ObjectRule, find_objects
from anomaly_seg_ros.objects.tracker import TrackedObject, Tracker, TrackRule
from anomaly_seg_ros.ros.stamps import seconds_of

try:
    from vision_msgs.msg import (
        BoundingBox2D,
        Detection2D,
        Detection2DArray,
        ObjectHypothesis,
        ObjectHypothesisWithPose,
        Point2D,
        Pose2D,
    )
except ImportError:  # it comes with apt, not from PyPI
    Detection2DArray = None  # then nobody can ask for it


@dataclass(frozen=True)
class Mounting:
    """How the cameras hang: metres above the road, 0 = unknown, and radians downwards."""

    height_m: float
    pitch_down: float

    def ground_plane(
        self, camera_info: CameraInfo | None, shape: tuple[int, ...]
    ) -> GroundPlane | None:
        """The road in a camera's image; None if the mounting or the calibration is unknown.

        Args:
            camera_info: The camera's; its K is that of the image as it comes.
            shape: (H, W) of the image. A calibration of another size says nothing about it.
        """
        if camera_info is None or self.height_m <= 0:
            return None
        if (camera_info.height, camera_info.width) != shape[:2] or camera_info.k[4] <= 0:
            return None
        fy, cy = float(camera_info.k[4]), float(camera_info.k[5])
        return GroundPlane(fy, cy, self.height_m, self.pitch_down)


@dataclass(frozen=True)
class ObjectSettings:
    """The parameters of the object stage, resolved for a model."""

    rule: ObjectRule
    tracking: TrackRule
    mounting: Mounting


def object_settings(
    values: Mapping[str, Any], metadata: ModelMetadata, score: str, threshold: float
) -> ObjectSettings:
    """Resolve the parameters that begin with ``object_`` and ``camera_``.

    Args:
        values: Of all parameters.
        metadata: Of the model.
        score: The anomaly score in use.
        threshold: The pixels' threshold in use.

    Raises:
        ParameterError: The model's calibration does not tell the smallest score for
            ``object_false_alarms``.
    """
    rule = ObjectRule(
        threshold=threshold,
        low_threshold=values["object_low_threshold"],
        min_area=values["object_min_area"],
        min_size_m=values["object_min_size"],
        min_score=values["object_min_score"],
    )
    if values["object_false_alarms"] > 0:
        rates = metadata.object_rates
        if rates is None:
            raise ParameterError(
                "parameter 'object_false_alarms': needs a calibration on unknown objects, which "
                "the model's metadata lacks; set object_min_score instead"
            )
        try:
            least = rates.min_score_for(values["object_false_alarms"], score, rule)
        except ParameterError as error:
            raise ParameterError(f"parameter 'object_false_alarms': {error}") from error
        rule = replace(rule, min_score=least)
    return ObjectSettings(
        rule,
        TrackRule(
            min_diou=values["object_min_diou"],
            birth=values["object_birth"],
            death_s=values["object_death"],
        ),
        Mounting(values["camera_height"], math.radians(values["camera_pitch"])),
    )


class ObjectStage:
    """Finds and follows the unknown objects of one camera."""

    def __init__(self) -> None:
        self._tracker = Tracker()

    def __call__(
        self,
        score: np.ndarray,
        labels: np.ndarray,
        header: Header,
        settings: ObjectSettings,
        camera_info: CameraInfo | None,
    ) -> list[TrackedObject]:
        """Add the next frame.

        Args:
            score: (H, W) float32 on the unit scale.
            labels: (H, W) uint8 closed-set trainIds.
            header: Of the frame.
            settings: Another tracking rule holds from now on.
            camera_info: The camera's calibration, or None.
        """
        self._tracker.rule = settings.tracking
        ground = settings.mounting.ground_plane(camera_info, score.shape)
        objects = find_objects(score, settings.rule, labels, ground)
        return self._tracker.update(objects, seconds_of(header))


def detection_array(
    tracked: Sequence[TrackedObject], header: Header, unknown_label: int
) -> Detection2DArray:
    """Makes the message.

    The first hypothesis of a detection is "unknown", with the object's score; the second, where
    there is one, the closed-set class that it was mistaken for, with the share of its pixels.
    Class ids are those of ``~/label_info``, as text.

    Args:
        tracked: The objects of a frame.
        header: Used as it is, for the array and each detection.
        unknown_label: The label of unknown pixels, K.
    """
    detections = []
    for number, unknown in tracked:
        hypotheses = [(unknown_label, unknown.score)]
        if unknown.class_id != IGNORE_INDEX:
            hypotheses.append((unknown.class_id, unknown.class_share))
        box = unknown.box
        # The centre of the first pixel is 0, as in CameraInfo.
        x, y = box.left + (box.width - 1) / 2, box.top + (box.height - 1) / 2
        detections.append(
            Detection2D(
                header=header,
                id=str(number),
                bbox=BoundingBox2D(
                    center=Pose2D(position=Point2D(x=x, y=y)),
                    size_x=float(box.width),
                    size_y=float(box.height),
                ),
                results=[
                    ObjectHypothesisWithPose(
                        hypothesis=ObjectHypothesis(class_id=str(label), score=score)
                    )
                    for label, score in hypotheses
                ],
            )
        )
    return Detection2DArray(header=header, detections=detections)

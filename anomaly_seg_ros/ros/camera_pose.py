# SPDX-License-Identifier: Apache-2.0
"""Where a camera is in another frame, by tf2 where it is installed."""

from __future__ import annotations

import os

import numpy as np
from rclpy.node import Node
from rclpy.time import Time
from std_msgs.msg import Header

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.objects.points import rotation_matrix
from anomaly_seg_ros.ros.range_maps import PointsError

try:
    import tf2_ros
except ImportError:  # it comes with apt, not from PyPI
    tf2_ros = None


class CameraPose:
    """Listens to tf for the pose of cameras in one frame.

    Args:
        node: Owner of the subscriptions.
        frame: The frame, named by the parameter ``points_frame``.

    Raises:
        ParameterError: tf2_ros is not installed.
    """

    def __init__(self, node: Node, frame: str) -> None:
        if tf2_ros is None:
            distro = os.environ.get("ROS_DISTRO", "jazzy")
            raise ParameterError(
                "parameter 'points_frame' needs tf2_ros, which is not installed: "
                f"apt install ros-{distro}-tf2-ros, or leave it empty and set camera_height"
            )
        self.frame = frame
        self._buffer = tf2_ros.Buffer()
        self._listener = tf2_ros.TransformListener(self._buffer, node)

    def close(self) -> None:
        """Stop listening."""
        self._listener.unregister()

    def __call__(self, header: Header) -> tuple[np.ndarray, np.ndarray]:
        """Return (rotation (3, 3), translation (3,)) from a header's frame at its stamp.

        Raises:
            PointsError: tf does not tell it.
        """
        try:
            found = self._buffer.lookup_transform(
                self.frame, header.frame_id, Time.from_msg(header.stamp)
            ).transform
        except tf2_ros.TransformException as error:
            reason = " ".join(str(error).split())
            raise PointsError(
                "no transform", f"{header.frame_id} in {self.frame}: {reason}"
            ) from (error)
        turn, shift = found.rotation, found.translation
        return (
            rotation_matrix(turn.x, turn.y, turn.z, turn.w),
            np.array((shift.x, shift.y, shift.z)),
        )

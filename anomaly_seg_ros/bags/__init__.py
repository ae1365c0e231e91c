# SPDX-License-Identifier: Apache-2.0
"""rosbag2 files without ROS: writing evaluation bags, reading them and foreign ones."""

from __future__ import annotations

from anomaly_seg_ros.bags.messages import CameraInfo, CompressedImage, RawImage
from anomaly_seg_ros.bags.reader import BagReader, Frame
from anomaly_seg_ros.bags.writer import BagWriter

__all__ = ["BagReader", "BagWriter", "CameraInfo", "CompressedImage", "Frame", "RawImage"]

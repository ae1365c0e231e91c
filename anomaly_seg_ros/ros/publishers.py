# SPDX-License-Identifier: Apache-2.0
"""The detector's outputs per frame, each made only while it has a subscriber."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Sequence
from functools import cache
from typing import Any, cast

import numpy as np
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Float32, Header

from anomaly_seg_ros import drawing
from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.inference.prediction import OutputRequest, Prediction, UnknownRule
from anomaly_seg_ros.labels import IGNORE_INDEX
from anomaly_seg_ros.objects.tracker import TrackedObject
from anomaly_seg_ros.ros.camera_input import CameraInput
from anomaly_seg_ros.ros.camera_pose import CameraPose
from anomaly_seg_ros.ros.messages import image_message, jpeg_message, png_message
from anomaly_seg_ros.ros.objects import ObjectStage, detection_array
from anomaly_seg_ros.ros.parameters import Settings
from anomaly_seg_ros.ros.points import PointSettings, point_cloud
from anomaly_seg_ros.ros.qos import QosEvents, latched, newest_only
from anomaly_seg_ros.ros.qos_overrides import overriding
from anomaly_seg_ros.ros.range_maps import PointsError
from anomaly_seg_ros.ros.score_encoding import encode_score

try:
    from vision_msgs.msg import Detection2DArray, LabelInfo, VisionClass
except ImportError:  # it comes with apt, not from PyPI
    Detection2DArray = LabelInfo = VisionClass = None

# Topic below the node's name -> type.
FRAME_TOPICS: dict[str, type] = {
    "labels": Image,
    "labels/compressed": CompressedImage,
    "open_set_labels": Image,
    "open_set_labels/compressed": CompressedImage,
    "open_set_mask": Image,
    "open_set_mask/compressed": CompressedImage,
    "ood_score": Image,
    "confidence": Image,
    "camera_info": CameraInfo,
    "overlay": Image,
    "overlay/compressed": CompressedImage,
    "ood_heatmap": Image,
    "ood_heatmap/compressed": CompressedImage,
    **({} if Detection2DArray is None else {"unknown_objects": Detection2DArray}),
    "unknown_points": PointCloud2,
    "debug/inference_latency_ms": Float32,
    "debug/processing_latency_ms": Float32,
    "debug/pipeline_latency_ms": Float32,
}
_OVERLAYS = {"overlay", "overlay/compressed"}
_HEAT_MAPS = {"ood_heatmap", "ood_heatmap/compressed"}
_OPEN_SET_LABELS = {"open_set_labels", "open_set_labels/compressed"}
_NEED_MASK = {"open_set_mask", "open_set_mask/compressed"} | _OVERLAYS
_OBJECTS = {"unknown_objects", "unknown_points"}
NEED_LABELS = frozenset({"labels", "labels/compressed"} | _OVERLAYS | _OBJECTS)
NEED_SCORE = frozenset({"ood_score"} | _OBJECTS | _OPEN_SET_LABELS | _NEED_MASK | _HEAT_MAPS)


class Outputs:
    """The publishers of all outputs; they publish only while the node is active.

    Args:
        node: Owner of the publishers.
        metadata: Classes, palette and calibration of the model.
        qos_events: Told of subscribers with incompatible QoS.
        camera: Its outputs are below ``~/<name>/``, or ``~/`` for the only one of a node, which
            has no name.
        pose: Where cameras are in the frame of points, or None.
    """

    def __init__(
        self,
        node: LifecycleNode,
        metadata: ModelMetadata,
        qos_events: QosEvents,
        camera: CameraInput,
        pose: CameraPose | None = None,
    ) -> None:
        self._node = node
        self._camera = camera
        self._pose = pose
        parent = f"~/{camera.name}/" if camera.name else "~/"
        self._metadata = metadata
        self._unknown_label = len(metadata.classes)
        self._publish_ms = 0.0  # of the frame at work
        self._object_stage = ObjectStage()
        self._publishers: dict[str, LifecyclePublisher] = {
            topic: node.create_lifecycle_publisher(
                kind,
                f"{parent}{topic}",
                newest_only(),
                event_callbacks=qos_events.of_publisher(
                    node.resolve_topic_name(f"{parent}{topic}")
                ),
                qos_overriding_options=overriding(node),
            )
            for topic, kind in FRAME_TOPICS.items()
        }
        if LabelInfo is not None:
            self._publishers["label_info"] = node.create_lifecycle_publisher(
                LabelInfo, f"{parent}label_info", latched()
            )

    def destroy(self) -> None:
        """Destroy all publishers."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers.clear()

    def wanted(self) -> frozenset[str]:
        """Return the frame topics that have a subscriber now."""
        return frozenset(topic for topic in FRAME_TOPICS if self.is_wanted(topic))

    def is_wanted(self, topic: str) -> bool:
        """Return whether a frame topic has a subscriber now."""
        return self._publishers[topic].get_subscription_count() > 0

    @property
    def has_label_info(self) -> bool:
        """Whether ``~/label_info`` and ``~/unknown_objects`` exist, which need vision_msgs."""
        return "label_info" in self._publishers

    def publish_label_info(self) -> None:
        """Latch the class names, if vision_msgs is installed."""
        if not self.has_label_info:
            return
        names = {**dict(enumerate(self._metadata.classes)), self._unknown_label: "unknown"}
        names[IGNORE_INDEX] = "unlabelled"
        message = LabelInfo(
            class_map=[VisionClass(class_id=k, class_name=name) for k, name in names.items()]
        )
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publishers["label_info"].publish(message)

    def publish_frame(
        self,
        wanted: Collection[str],
        header: Header,
        image: np.ndarray,
        prediction: Prediction,
        settings: Settings,
        camera_info: CameraInfo | None,
    ) -> float:
        """Publish the wanted outputs of one frame, pictures for people last.

        Args:
            wanted: The result of :meth:`wanted` from before the prediction was made.
            header: The header of the input, which every output carries.
            image: (H, W, 3) uint8 RGB.
            prediction: Has the maps of :func:`output_request`.
            settings: The settings for this frame.
            camera_info: The latest of the input, or None.

        Returns:
            Milliseconds inside the middleware's ``publish``, as opposed to making messages.
        """
        self._publish_ms = 0.0
        # Maps for wanted outputs are never None: output_request() asked for them.
        labels = cast(np.ndarray, prediction.labels)
        open_set_labels = cast(np.ndarray, prediction.open_set_labels)
        score = cast(np.ndarray, prediction.unit_score)
        mask = cast(np.ndarray, prediction.mask)
        confidence = cast(np.ndarray, prediction.confidence)
        quality, alpha = settings.jpeg_quality, settings.overlay_alpha
        encoding = settings.ood_score_encoding

        @cache
        def objects() -> list[TrackedObject]:
            return self._object_stage(score, labels, header, settings.objects, camera_info)

        @cache
        def overlay() -> np.ndarray:
            return drawing.overlay(image, labels, self._metadata.palette, alpha, unknown=mask)

        @cache
        def heat_map() -> np.ndarray:
            return drawing.heat_map(score)

        make: dict[str, Callable[[], Any]] = {
            "labels": lambda: image_message(labels, "mono8", header),
            "labels/compressed": lambda: png_message(labels, header),
            "open_set_mask": lambda: image_message(mask, "mono8", header),
            "open_set_mask/compressed": lambda: png_message(mask, header),
            "open_set_labels": lambda: image_message(open_set_labels, "mono8", header),
            "open_set_labels/compressed": lambda: png_message(open_set_labels, header),
            "ood_score": lambda: image_message(encode_score(score, encoding), encoding, header),
            "confidence": lambda: image_message(confidence, "mono8", header),
            "camera_info": lambda: restamped(camera_info, header),
            "unknown_objects": lambda: detection_array(objects(), header, self._unknown_label),
            "unknown_points": lambda: self._placed(
                objects(), header, camera_info, image.shape, settings.points
            ),
            "overlay": lambda: image_message(overlay(), "rgb8", header),
            "overlay/compressed": lambda: jpeg_message(overlay(), quality, header),
            "ood_heatmap": lambda: image_message(heat_map(), "rgb8", header),
            "ood_heatmap/compressed": lambda: jpeg_message(heat_map(), quality, header),
        }
        if camera_info is None:
            wanted = frozenset(wanted) - {"camera_info"}
        for topic, message in make.items():
            if topic in wanted:
                self._send(topic, message())
        return self._publish_ms

    def _placed(
        self,
        objects: Sequence[TrackedObject],
        header: Header,
        camera_info: CameraInfo | None,
        shape: tuple[int, ...],
        settings: PointSettings,
    ) -> PointCloud2 | None:
        """The points of objects; without them, says why and leaves the other outputs alone."""
        ranges = self._camera.range_maps
        try:
            return point_cloud(objects, header, camera_info, shape, settings, ranges, self._pose)
        except PointsError as error:
            self._camera.say_first(error.kind, str(error))
            return None

    def publish_latencies(self, wanted: Collection[str], milliseconds: dict[str, float]) -> None:
        """Publish those of ``inference``, ``processing`` and ``pipeline`` that are wanted."""
        for name, value in milliseconds.items():
            topic = f"debug/{name}_latency_ms"
            if topic in wanted:
                self._publishers[topic].publish(Float32(data=value))

    def _send(self, topic: str, message: Any) -> None:
        if message is None:
            return
        started = time.perf_counter()
        self._publishers[topic].publish(message)
        self._publish_ms += (time.perf_counter() - started) * 1e3


def output_request(topics: Collection[str], settings: Settings) -> OutputRequest:
    """Returns the request for the maps that these frame topics need."""
    # The labels between unknown pixels are needed again once the score has been smoothed.
    needs_labels = NEED_LABELS if settings.smoothing is None else NEED_LABELS | _OPEN_SET_LABELS
    unknown = None
    if NEED_SCORE.intersection(topics):
        unknown = UnknownRule(
            settings.score_method,
            settings.threshold,
            mask=bool(_NEED_MASK.intersection(topics)),
            open_set_labels=bool(_OPEN_SET_LABELS.intersection(topics)),
        )
    return OutputRequest(
        labels=bool(needs_labels.intersection(topics)),
        confidence="confidence" in topics,
        unknown=unknown,
    )


def restamped(camera_info: CameraInfo, header: Header) -> CameraInfo:
    """Copies the calibration with another header; the input's message is not modified."""
    restamped_info = copy.copy(camera_info)
    restamped_info.header = header
    return restamped_info

"""Topics and metadata keys of an evaluation bag (docs/bags.md)."""

from __future__ import annotations

IMAGE = "/camera/image_raw"
COMPRESSED_IMAGE = "/camera/image_raw/compressed"
CAMERA_INFO = "/camera/camera_info"
DISPARITY = "/camera/disparity"
ANOMALY_MASK = "/ground_truth/anomaly_mask"
LABELS = "/ground_truth/labels"

IMAGE_TYPE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE_TYPE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO_TYPE = "sensor_msgs/msg/CameraInfo"

# Keys of custom_data in metadata.yaml. SAMPLES holds a JSON list, one object a frame:
# {"name": str, "stamp_ns": int, "baseline_m": float | null, "fold": str}.
DATASET_KEY = "anomaly_seg_ros.dataset"
TAXONOMY_KEY = "anomaly_seg_ros.taxonomy"
FRAME_RATE_KEY = "anomaly_seg_ros.frame_rate"
SAMPLES_KEY = "anomaly_seg_ros.samples"
# What the values of the anomaly masks mean: the writer takes none but checked masks.
MASK_VALUES_KEY = "anomaly_seg_ros.anomaly_mask"
MASK_VALUES = "0 in-distribution, 1 anomaly, 255 ignore"

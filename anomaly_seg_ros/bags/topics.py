# SPDX-License-Identifier: Apache-2.0
"""Topics and metadata of an evaluation bag (docs/bags.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any

from anomaly_seg_ros.errors import BagError
from anomaly_seg_ros.io.safe_yaml_json import is_file_name, parse_json, short_repr

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
CLASSES_KEY = "anomaly_seg_ros.classes"  # a JSON list of names in trainId order
FRAME_RATE_KEY = "anomaly_seg_ros.frame_rate"
SAMPLES_KEY = "anomaly_seg_ros.samples"
# Meaning of the values of the anomaly masks; the writer accepts only checked masks.
MASK_VALUES_KEY = "anomaly_seg_ros.anomaly_mask"
MASK_VALUES = "0 in-distribution, 1 anomaly, 255 ignore"


@dataclass(frozen=True)
class CustomData:
    """The custom_data of metadata.yaml; all empty in foreign bags.

    Attributes:
        dataset: Name of the data set.
        taxonomy: Name of the taxonomy whose trainIds the labels hold.
        classes: Its classes, empty if not noted.
        frame_rate: Frames a second.
        samples: Entries of :data:`SAMPLES_KEY` by stamp in nanoseconds.
        masks_are_checked: True if the writer declares the values of its anomaly masks.
    """

    dataset: str | None
    taxonomy: str | None
    classes: tuple[str, ...]
    frame_rate: float | None
    samples: dict[int, dict[str, Any]]
    masks_are_checked: bool

    @classmethod
    def read(cls, custom: dict[str, Any], bag: Path) -> CustomData:
        """Reads and checks every value.

        Raises:
            BagError: A value is not one that the writer writes.
        """
        what = f"{bag}: custom_data in metadata.yaml"
        try:
            samples = {}
            for sample in parse_json(custom.get(SAMPLES_KEY, "[]"), what, BagError):
                _check_sample(sample)
                samples[sample["stamp_ns"]] = sample
            rate = custom.get(FRAME_RATE_KEY)
            rate = None if rate is None else float(rate)
            if rate is not None and not 0 < rate < math.inf:
                raise ValueError(f"a frame rate of {rate}")
            return cls(
                dataset=_optional(str, custom.get(DATASET_KEY)),
                taxonomy=_optional(str, custom.get(TAXONOMY_KEY)),
                classes=_names(parse_json(custom.get(CLASSES_KEY, "[]"), what, BagError)),
                frame_rate=rate,
                samples=samples,
                masks_are_checked=custom.get(MASK_VALUES_KEY) == MASK_VALUES,
            )
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise BagError(f"{what} is unreadable: {error}") from error


def _optional(kind: type | UnionType, value: Any) -> Any:
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{short_repr(value)} instead of a {getattr(kind, '__name__', 'number')}")
    return value


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError(f"{short_repr(value)} instead of a list of classes")
    return tuple(value)


def _check_sample(sample: Any) -> None:
    """Raises ValueError or TypeError unless the writer could have written this sample."""
    stamp, name = sample["stamp_ns"], sample.get("name")
    if type(stamp) is not int:
        raise TypeError(f"a stamp {short_repr(stamp)}")
    # Frame names become file names.
    if name is not None and not is_file_name(name):
        raise ValueError(f"{short_repr(name)} is no name of a frame")
    _optional(int | float, sample.get("baseline_m"))
    fold = sample.get("fold", "")
    if not isinstance(fold, str):
        raise TypeError(f"a fold {short_repr(fold)}")

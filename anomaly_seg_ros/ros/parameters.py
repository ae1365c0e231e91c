# SPDX-License-Identifier: Apache-2.0
"""The detector's parameters: names, types, ranges and when they may change.

Their defaults are in ``config/detector.yaml`` only.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.inference.options import (
    BACKENDS,
    INFERENCE_MODES,
    PRECISIONS,
    SegmenterOptions,
)
from anomaly_seg_ros.inference.segmenter import Segmenter
from anomaly_seg_ros.io.safe_yaml_json import read_yaml, short_repr
from anomaly_seg_ros.objects.smoothing import SmoothingRule
from anomaly_seg_ros.ros.objects import ObjectSettings, object_settings
from anomaly_seg_ros.ros.points import PointSettings, point_settings
from anomaly_seg_ros.ros.qos_overrides import DEEPEST, PREFIX, check_overrides
from anomaly_seg_ros.ros.range_maps import SOURCES
from anomaly_seg_ros.ros.score_encoding import SCORE_ENCODINGS
from anomaly_seg_ros.scores import SCORES
from anomaly_seg_ros.system.resources import config_path

ALWAYS, INACTIVE, UNCONFIGURED = "always", "inactive", "unconfigured"
READ_ONLY = "read-only"
# The lifecycle states in which a parameter of each kind may change.
CHANGEABLE_IN = {
    ALWAYS: ("unconfigured", "inactive", "active"),
    INACTIVE: ("unconfigured", "inactive"),
    UNCONFIGURED: ("unconfigured",),
    READ_ONLY: (),
}
HOW_TO_CHANGE = {
    INACTIVE: "deactivate the node first",
    UNCONFIGURED: "deactivate and clean up the node first",
    READ_ONLY: "start the node with another value",
}
# The same for tools that describe a parameter; they know ``read_only``.
_WHEN = {
    INACTIVE: "cannot change while active",
    UNCONFIGURED: "changes only while unconfigured",
}

FAIL, TILE = "fail", "tile"
ON_OUT_OF_MEMORY = (FAIL, TILE)
# Parameters that rclpy declares itself.
_RCLPY = ("use_sim_time", "start_type_description_service")


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter: the values it accepts, and the lifecycle states in which it may change."""

    kind: type
    description: str
    changes: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()

    def descriptor(self) -> ParameterDescriptor:
        """Return the descriptor for ROS tools: ``ros2 param describe``, rqt_reconfigure."""
        descriptor = ParameterDescriptor(
            description=self.description, read_only=self.changes == READ_ONLY
        )
        constraints = ["one of: " + ", ".join(self.choices)] if self.choices else []
        if self.changes in _WHEN:
            constraints.append(_WHEN[self.changes])
        descriptor.additional_constraints = "; ".join(constraints)
        if self.kind is int:
            limits = IntegerRange(from_value=self.minimum, to_value=self.maximum, step=1)
            descriptor.integer_range = [limits]
        elif self.kind is float:
            limits = FloatingPointRange(from_value=self.minimum, to_value=self.maximum, step=0.0)
            descriptor.floating_point_range = [limits]
        return descriptor

    def accept(self, name: str, value: Any) -> Any:
        """Convert a value to the parameter's type, because people write 10 for 10.0.

        Raises:
            ParameterError: The parameter, which is named, does not accept ``value``.
        """
        if self.kind is float and type(value) is int:
            value = float(value)
        elif self.kind is int and type(value) is float and value.is_integer():
            value = int(value)
        self._check(name, value)
        return value

    def _check(self, name: str, value: Any) -> None:
        kind = type(value)
        if kind is not self.kind:  # not isinstance: a bool must not pass as an int
            hint: dict[type, str] = {
                str: "; put it in quotes",
                list: "; write a list, such as [front, rear]",
            }
            raise ParameterError(
                f"parameter '{name}' must be of type {self.kind.__name__}, not "
                f"{kind.__name__} ({short_repr(value)}){hint.get(self.kind, '')}"
            )
        if self.choices and value not in self.choices:
            raise ParameterError(
                f"parameter '{name}' must be one of {', '.join(self.choices)}, not '{value}'"
            )
        if self.kind is list:
            camera_names(value)
        # NaN would pass rclpy's own range check, which only compares.
        low, high = self.minimum, self.maximum
        if low is not None and high is not None and not low <= value <= high:
            raise ParameterError(f"parameter '{name}' must be in [{low}, {high}], not {value}")


PARAMETERS: dict[str, ParameterSpec] = {
    "model": ParameterSpec(str, "model name, or path of a weights file", UNCONFIGURED),
    "device": ParameterSpec(str, "auto, cpu, cuda or cuda:N", UNCONFIGURED),
    "precision": ParameterSpec(str, "arithmetic of the network", UNCONFIGURED, choices=PRECISIONS),
    "backend": ParameterSpec(str, "what runs the network", UNCONFIGURED, choices=BACKENDS),
    "cuda_graphs": ParameterSpec(
        bool, "replay the network on a GPU as one graph for each size", UNCONFIGURED
    ),
    "inference_mode": ParameterSpec(
        str, "how frames reach the network", UNCONFIGURED, choices=INFERENCE_MODES
    ),
    "inference_height": ParameterSpec(
        int,
        "rows to which frames are resized, 0 = the model's own, or none at all if tiled",
        UNCONFIGURED,
        0,
        8192,
    ),
    "inference_width": ParameterSpec(
        int,
        "columns to which frames are resized, 0 = the model's own, or none at all if tiled",
        UNCONFIGURED,
        0,
        8192,
    ),
    "tile_height": ParameterSpec(
        int, "rows of a tile, 0 = the model's inference size", UNCONFIGURED, 0, 8192
    ),
    "tile_width": ParameterSpec(
        int, "columns of a tile, 0 = the model's inference size", UNCONFIGURED, 0, 8192
    ),
    "tile_overlap": ParameterSpec(
        int, "pixels that neighbouring tiles share at least", UNCONFIGURED, 0, 8192
    ),
    "num_threads": ParameterSpec(
        int, "CPU threads of the network, 0 = as many as are good", UNCONFIGURED, 0, 1024
    ),
    "score_method": ParameterSpec(
        str, "anomaly score, auto = the model's own", ALWAYS, choices=("auto", *SCORES)
    ),
    "threshold": ParameterSpec(
        float, "a pixel is unknown from this score on, on the 0..1 scale", ALWAYS, 0.0, 1.0
    ),
    "target_tpr": ParameterSpec(
        float,
        "share of unknown pixels to find, takes the threshold's place; 0 = off",
        ALWAYS,
        0.0,
        1.0,
    ),
    "temporal_smoothing": ParameterSpec(
        float,
        "seconds over which the score is averaged where the picture stands still, 0 = off",
        ALWAYS,
        0.0,
        60.0,
    ),
    "object_low_threshold": ParameterSpec(
        float, "score down to which an unknown object extends", ALWAYS, 0.0, 1.0
    ),
    "object_min_area": ParameterSpec(
        int, "pixels of the smallest unknown object", ALWAYS, 1, 65536
    ),
    "object_min_size": ParameterSpec(
        float,
        "side in metres of the smallest unknown object, where its distance is known; 0 = any",
        ALWAYS,
        0.0,
        100.0,
    ),
    "object_min_score": ParameterSpec(
        float, "smallest score of an unknown object", ALWAYS, 0.0, 1.0
    ),
    "object_false_alarms": ParameterSpec(
        float,
        "false alarms per frame to allow, takes object_min_score's place; 0 = off",
        ALWAYS,
        0.0,
        1000.0,
    ),
    "object_min_diou": ParameterSpec(
        float, "smallest DIoU of an object with where it was expected", ALWAYS, -1.0, 1.0
    ),
    "object_birth": ParameterSpec(
        int, "successive frames with an object until it is published", ALWAYS, 1, 100
    ),
    "object_death": ParameterSpec(
        float, "seconds without an object until its id ends", ALWAYS, 0.0, 60.0
    ),
    "camera_height": ParameterSpec(
        float, "metres of the cameras above the road, 0 = unknown", ALWAYS, 0.0, 100.0
    ),
    "camera_pitch": ParameterSpec(
        float, "degrees that the cameras look down", ALWAYS, -90.0, 90.0
    ),
    "camera_pitch_std": ParameterSpec(
        float, "standard deviation of camera_pitch in degrees", ALWAYS, 0.0, 90.0
    ),
    "points_source": ParameterSpec(
        str, "what tells the positions of unknown objects", ALWAYS, choices=SOURCES
    ),
    "points_max_range": ParameterSpec(
        float, "metres from the camera past which points are left out", ALWAYS, 0.1, 10000.0
    ),
    "points_row_std": ParameterSpec(
        float,
        "standard deviation in pixels of the row where an object meets the road",
        ALWAYS,
        0.0,
        1000.0,
    ),
    "points_disparity_std": ParameterSpec(
        float, "standard deviation of disparities in pixels", ALWAYS, 0.0, 1000.0
    ),
    "points_frame": ParameterSpec(
        str,
        "frame of the points, whose plane z = 0 is the road; empty = the camera's",
        UNCONFIGURED,
    ),
    "depth_slop": ParameterSpec(
        float, "seconds between the stamps of a frame and of its depth", ALWAYS, 0.0, 10.0
    ),
    "ood_score_encoding": ParameterSpec(
        str, "encoding of the published score", ALWAYS, choices=tuple(SCORE_ENCODINGS)
    ),
    "overlay_alpha": ParameterSpec(
        float, "weight of the class colours in the overlay", ALWAYS, 0.0, 1.0
    ),
    "jpeg_quality": ParameterSpec(int, "quality of compressed outputs", ALWAYS, 1, 100),
    "max_rate": ParameterSpec(
        float, "most frames a second to process (Hz), 0 = no limit", ALWAYS, 0.0, 1000.0
    ),
    "on_out_of_memory": ParameterSpec(
        str,
        "what becomes of a frame that does not fit into the device's memory",
        ALWAYS,
        choices=ON_OUT_OF_MEMORY,
    ),
    "frame_timeout": ParameterSpec(
        float, "seconds without a frame until the node warns, 0 = never", ALWAYS, 0.0, 3600.0
    ),
    "late_after": ParameterSpec(
        float,
        "seconds that a frame may be old, or take, until the node warns, 0 = never",
        ALWAYS,
        0.0,
        3600.0,
    ),
    "stuck_after": ParameterSpec(
        float, "seconds at work from which a frame counts as stuck", ALWAYS, 0.1, 3600.0
    ),
    "recovery_attempts": ParameterSpec(
        int, "attempts to configure again after the device was lost", ALWAYS, 0, 1000
    ),
    "cameras": ParameterSpec(
        list, "names of several cameras; an empty name = one camera, without one", UNCONFIGURED
    ),
    "batch_wait_ms": ParameterSpec(
        float,
        "milliseconds that the first frame waits for those of the other cameras",
        INACTIVE,
        0.0,
        10000.0,
    ),
    "image_transport": ParameterSpec(
        str, "transport of the input image", INACTIVE, choices=("raw", "compressed")
    ),
    "qos_reliability": ParameterSpec(
        str, "QoS reliability of the input", INACTIVE, choices=("best_effort", "reliable")
    ),
    "bit_depth": ParameterSpec(
        int,
        "bits in use of 16-bit images, 0 = all, with a warning if they look fewer",
        ALWAYS,
        0,
        16,
    ),
    "qos_depth": ParameterSpec(int, "QoS queue depth of the input", INACTIVE, 1, DEEPEST),
    "diagnostics_period": ParameterSpec(
        float, "seconds between messages on /diagnostics", INACTIVE, 0.05, 3600.0
    ),
    "autostart": ParameterSpec(bool, "configure and activate when the node starts", READ_ONLY),
}


def read_defaults(path: Path | None = None) -> dict[str, Any]:
    """Read the defaults from ``path``, or from the package's ``detector.yaml``.

    Raises:
        ParameterError: The file cannot be read, its names differ from ``PARAMETERS``, or a value
            is not accepted.
    """
    path = config_path("detector.yaml") if path is None else path
    content = read_yaml(path, ParameterError)
    try:
        defaults = content["/**"]["ros__parameters"]
    except (KeyError, TypeError, IndexError) as error:
        raise ParameterError(f"{path}: no '/**: ros__parameters:'") from error
    if not isinstance(defaults, dict):
        raise ParameterError(f"{path}: 'ros__parameters' must map names to values")
    if set(defaults) != set(PARAMETERS):
        names = ", ".join(sorted(short_repr(name) for name in set(defaults) ^ set(PARAMETERS)))
        raise ParameterError(f"{path}: missing or unknown parameters: {names}")
    return {name: PARAMETERS[name].accept(name, value) for name, value in defaults.items()}


def declare(node: Node) -> None:
    """Declare every parameter on ``node`` and check overrides from files and command line.

    Raises:
        ParameterError: An override is out of range or of the wrong type.
    """
    check_overrides(node)
    overrides = getattr(node, "_parameter_overrides", {})
    for name, default in read_defaults().items():
        spec = PARAMETERS[name]
        given = overrides[name].value if name in overrides else None
        value = default if given is None else spec.accept(name, given)  # None: an empty list
        node.declare_parameter(name, value, spec.descriptor(), ignore_override=True)
    # rclpy silently ignores undeclared names, such as misspelt ones.
    for name in overrides:
        if name not in (*PARAMETERS, *_RCLPY) and not name.startswith(PREFIX):
            node.get_logger().warning(f"unknown parameter '{name}' is ignored{_instead(name)}")


def accepted(changes: Sequence[Parameter]) -> list[Parameter]:
    """Convert the numbers in ``changes`` to the types of their parameters."""
    result = []
    for change in changes:
        spec = PARAMETERS.get(change.name)
        if spec is not None and change.type_ != Parameter.Type.NOT_SET:
            value = spec.accept(change.name, change.value)
            if type(value) is not type(change.value):
                change = Parameter(change.name, value=value)
        result.append(change)
    return result


def _instead(name: str) -> str:
    near = difflib.get_close_matches(name, (*PARAMETERS, *_RCLPY), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def values_of(node: Node) -> dict[str, Any]:
    """Return the current value of every parameter."""
    return {name: node.get_parameter(name).value for name in PARAMETERS}


def check_change(name: str, value: Any, state: str) -> None:
    """Raise ParameterError if ``name`` may not become ``value`` in this lifecycle state."""
    if not name:
        raise ParameterError("a parameter without a name")  # rclpy would store it
    spec = PARAMETERS.get(name)
    if spec is None:  # rclpy's own: use_sim_time
        return
    spec.accept(name, value)
    if state not in CHANGEABLE_IN[spec.changes]:
        raise ParameterError(
            f"parameter '{name}' cannot change while the node is {state}: "
            f"{HOW_TO_CHANGE[spec.changes]}"
        )


@dataclass(frozen=True)
class Settings:
    """A consistent set of the parameters that may change between two frames.

    ``score_method`` and ``threshold`` are resolved from ``auto`` and ``target_tpr``, the smallest
    score of an object from ``object_false_alarms``.
    """

    score_method: str
    threshold: float
    smoothing: SmoothingRule | None
    objects: ObjectSettings
    points: PointSettings
    ood_score_encoding: str
    overlay_alpha: float
    jpeg_quality: int
    max_rate: float
    bit_depth: int
    on_out_of_memory: str


@dataclass(frozen=True)
class WatchdogLimits:
    """The watchdog's limits in seconds; see the parameters of these names."""

    frame_timeout: float
    late_after: float
    stuck_after: float


def camera_names(values: Sequence[str]) -> tuple[str, ...]:
    """Return the names in the parameter ``cameras``, none for one camera without a name.

    Raises:
        ParameterError: A name cannot be part of a topic, or comes twice.
    """
    if not all(isinstance(value, str) for value in values):
        raise ParameterError(
            f"parameter 'cameras' must be a list of strings, not {short_repr(values)}"
        )
    names = tuple(name for name in values if name)
    for name in names:
        if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name):
            raise ParameterError(
                f"parameter 'cameras': {short_repr(name)} cannot be part of a topic's name: take "
                "letters, digits and _, a letter first"
            )
        if names.count(name) > 1:
            raise ParameterError(f"parameter 'cameras': '{name}' comes twice")
    return names


def watchdog_limits(node: Node) -> WatchdogLimits:
    """Return the current limits."""
    names = (field.name for field in fields(WatchdogLimits))
    return WatchdogLimits(**{name: node.get_parameter(name).value for name in names})


def resolve_settings(values: Mapping[str, Any], segmenter: Segmenter) -> Settings:
    """Resolve the dynamic parameters for this model.

    Raises:
        ParameterError: The model cannot compute the score, or was not calibrated for the rates
            ``target_tpr`` or ``object_false_alarms``.
    """
    metadata = segmenter.metadata
    score = values["score_method"]
    if score == "auto":
        score = metadata.default_score
    if score not in segmenter.available_scores:
        raise ParameterError(
            f"parameter 'score_method': model '{metadata.name}' has no '{score}'; it has "
            + ", ".join(segmenter.available_scores)
        )
    threshold = values["threshold"]
    if values["target_tpr"] > 0:
        try:
            threshold = metadata.calibration_of(score).threshold_for_tpr(values["target_tpr"])
        except ParameterError as error:
            raise ParameterError(f"parameter 'target_tpr': {error}") from error
    seconds = values["temporal_smoothing"]
    objects = object_settings(values, metadata, score, float(threshold))
    return Settings(
        score_method=score,
        threshold=float(threshold),
        smoothing=SmoothingRule(seconds) if seconds > 0 else None,
        objects=objects,
        points=point_settings(values, objects.mounting),
        ood_score_encoding=values["ood_score_encoding"],
        overlay_alpha=values["overlay_alpha"],
        jpeg_quality=values["jpeg_quality"],
        max_rate=values["max_rate"],
        bit_depth=values["bit_depth"],
        on_out_of_memory=values["on_out_of_memory"],
    )


def missing_calibration(values: Mapping[str, Any], segmenter: Segmenter) -> str:
    """Return a warning if the model was not calibrated for the score, else an empty string."""
    metadata = segmenter.metadata
    score = values["score_method"]
    score = metadata.default_score if score == "auto" else score
    if score in metadata.calibration:
        return ""
    return (
        f"model '{metadata.name}' is not calibrated for '{score}': its unit scale and thresholds "
        f"are provisional; python -m training.calibrate --model {values['model']} --out NEW"
    )


def segmenter_options(values: Mapping[str, Any]) -> SegmenterOptions:
    """Return the options of the segmenter that the parameters set.

    Raises:
        ParameterError: Only one of a height and a width is set.
    """
    return SegmenterOptions(
        device=values["device"],
        precision=values["precision"],
        inference_size=_size(values, "inference_height", "inference_width"),
        inference_mode=values["inference_mode"],
        tile_size=_size(values, "tile_height", "tile_width"),
        tile_overlap=values["tile_overlap"],
        backend=values["backend"],
        num_threads=values["num_threads"],
        cuda_graphs=values["cuda_graphs"],
    )


def _size(values: Mapping[str, Any], height: str, width: str) -> tuple[int, int] | None:
    """Return ``(height, width)``, or None for 0 and 0."""
    size = values[height], values[width]
    if (size[0] == 0) != (size[1] == 0):
        raise ParameterError(
            f"parameters '{height}' and '{width}' must both be 0 or both be set, "
            f"not {size[0]} and {size[1]}"
        )
    return size if size[0] else None

# SPDX-License-Identifier: Apache-2.0
"""Names the missing package behind an error. Standard library only."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import re
from collections.abc import Iterable, Mapping
from importlib import import_module, metadata

from anomaly_seg_ros.errors import AnomalySegError, first_line

# Start of the search for absent requirements; an apt ROS has no metadata to search.
_ROOTS = (
    *("torch", "torchvision", "openvino", "onnxruntime", "opencv-python-headless", "rosbags"),
    *("ros-jazzy-rclpy", "ros-jazzy-rmw-fastrtps-cpp", "ros-jazzy-sensor-msgs"),
    *("ros-jazzy-diagnostic-msgs", "ros-jazzy-lifecycle-msgs", "ros-jazzy-rcl-interfaces"),
    *("ros-jazzy-std-msgs", "ros-jazzy-std-srvs", "cv-bridge"),
)
# Absent on purpose: it only generates message code, so the lock files omit it.
_ONLY_FOR_BUILDS = {"empy"}
_NO_MODULE = re.compile(r"No module named '([\w.]+)'")
# rclpy's error for a failed import of a message's compiled part; its module needs ROS.
_OF_IMPORTS = {"UnsupportedTypeSupport"}
_NO_LIBRARY = "cannot open shared object file"
# Distributions that are not named like their module.
_DISTRIBUTIONS = {
    "cv2": "opencv-python-headless",
    "google.protobuf": "protobuf",
    "PIL": "pillow",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "PyYAML",
}
_ROS_MODULES = ("rclpy", "cv_bridge", "builtin_interfaces", "ament_index_python")
_ROS_SUFFIXES = ("_msgs", "_srvs", "_interfaces")
_ROS_PREFIXES = ("rosidl_", "rpyutils", "rcl", "rmw_")


def missing_module(name: str) -> str:
    """Says in one line that a Python module is missing, and how to get it."""
    top = name.split(".")[0]
    if name != top and (spec := importlib.util.find_spec(top)) is not None:
        if spec.origin is not None:
            return f"'{top}' is installed, but lacks the module '{name}': install it again"
        top = ".".join(name.split(".")[:2])  # a namespace, which several distributions share
    is_ros = top in _ROS_MODULES or top.endswith(_ROS_SUFFIXES) or top.startswith(_ROS_PREFIXES)
    if is_ros:
        return (
            f"the ROS 2 module '{top}' is missing: source your ROS 2 installation, or install "
            "the wheels with `pip install -r requirements/ros.txt`"
        )
    distribution = _DISTRIBUTIONS.get(top, top)
    return f"the Python package '{distribution}' is missing: `pip install {distribution}`"


def missing_package(error: BaseException) -> str | None:
    """Names the package to install if an error, or one of its causes, is a failed import.

    Args:
        error: Any error.

    Returns:
        One line that names the package; None if no import failed for lack of a package.
    """
    for cause in _causes(error):
        if isinstance(cause, ModuleNotFoundError) and (name := _module_name(cause)):
            return missing_module(name)
    for cause in _causes(error):
        if isinstance(cause, ImportError | OSError) and _NO_LIBRARY in str(cause):
            return _with_absent(cause, absent_requirements())
    return None


def in_one_line(error: BaseException) -> str:
    """Returns the message of an own error, the missing package, or type and message."""
    if isinstance(error, AnomalySegError):
        return str(error)
    return missing_package(error) or f"{type(error).__name__}: {first_line(error)}"


def broken_installation(error: BaseException) -> str | None:
    """Like :func:`missing_package`, and adds absent requirements to any other error.

    For errors that end the process: the absence need not be the cause, but is worth knowing.
    """
    if known := missing_package(error):
        return known
    absent = absent_requirements()
    return _with_absent(error, absent) if absent else None


def absent_requirements() -> dict[str, str]:
    """Missing distributions that installed ones require, with the one that requires them."""
    absent: dict[str, str] = {}
    todo = list(_ROOTS)
    seen = set(todo) | _ONLY_FOR_BUILDS
    while todo:
        name = todo.pop()
        for required in _requirements(name):
            if _canonical(required) in seen:
                continue
            seen.add(_canonical(required))
            try:
                metadata.distribution(required)
                todo.append(required)
            except metadata.PackageNotFoundError:
                absent[required] = name
    return absent


def _requirements(distribution: str) -> Iterable[str]:
    """Yields the names of a distribution's requirements on this machine, without extras."""
    parse = _parser()
    lines: Iterable[str] = ()
    with contextlib.suppress(metadata.PackageNotFoundError):
        lines = metadata.requires(distribution) or ()
    for line in lines:
        if parse is None:
            if ";" not in line:  # markers cannot be evaluated
                yield re.split(r"[^\w.-]", line.strip(), maxsplit=1)[0]
            continue
        requirement = parse(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement.name


@functools.cache
def _parser() -> type | None:
    for module in ("packaging.requirements", "pip._vendor.packaging.requirements"):
        with contextlib.suppress(ImportError):
            return import_module(module).Requirement
    return None


def _causes(error: BaseException) -> Iterable[BaseException]:
    """Yields an error, its cause, and so on."""
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        yield current
        # An error that was merely being handled may be an optional import, which is no cause.
        failed_import = isinstance(current, ImportError) or type(current).__name__ in _OF_IMPORTS
        current = current.__cause__ or (current.__context__ if failed_import else None)


def _module_name(error: ModuleNotFoundError) -> str:
    named = _NO_MODULE.search(str(error))
    return error.name or (named.group(1) if named else "")


def _with_absent(error: BaseException, absent: Mapping[str, str]) -> str:
    words = f"{type(error).__name__}: {first_line(error)}"
    if not absent:
        return f"{words}: install the package that brings it"
    told = ", ".join(f"'{name}', which {who} needs" for name, who in absent.items())
    return f"{words}; not installed: {told}: `pip install {' '.join(absent)}`"


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()

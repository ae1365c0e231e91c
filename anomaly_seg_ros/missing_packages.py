"""Names the package behind an import that failed. Imports nothing beyond the standard library."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterable, Mapping
from importlib import import_module, metadata, util
from importlib.machinery import ModuleSpec

from anomaly_seg_ros.errors import AnomalySegError, first_line

# Import name -> name for pip, where the two differ and no installed metadata can tell.
_PIP_NAMES = {
    "_yaml": "PyYAML",
    "cv2": "opencv-python-headless",
    "google.protobuf": "protobuf",
    "jinja2": "Jinja2",
    "markupsafe": "MarkupSafe",
    "PIL": "pillow",
    "segmentation_models_pytorch": "segmentation-models-pytorch",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "typing_extensions": "typing-extensions",
    "yaml": "PyYAML",
}
# What ROS brings; the wheels' names begin with ros-jazzy-, apt's with ros-DISTRO-.
_ROS = re.compile(
    r"rclpy|rpyutils|rosidl_\w+|rmw_\w+|rcl_\w+|rcutils|ament_\w+|builtin_interfaces|\w+_msgs"
    r"|std_srvs|\w+_interfaces|cv_bridge"
)
_SET_UP_ROS = "source /opt/ros/DISTRO/setup.bash, or pip install -r requirements/ros.txt"
# Whose requirements are looked through when a shared library is missing; a few are enough, for
# they need most of the rest.
_ROOTS = (
    *("torch", "torchvision", "openvino", "onnxruntime", "opencv-python-headless", "rosbags"),
    *("ros-jazzy-rclpy", "ros-jazzy-rmw-fastrtps-cpp", "ros-jazzy-sensor-msgs"),
    *("ros-jazzy-diagnostic-msgs", "ros-jazzy-lifecycle-msgs", "ros-jazzy-rcl-interfaces"),
    *("ros-jazzy-std-msgs", "ros-jazzy-std-srvs"),
)
_NO_MODULE = re.compile(r"No module named '([\w.]+)'")
_NO_LIBRARY = ("cannot open shared object file", "image not found", "DLL load failed")


class MissingPackageError(AnomalySegError):
    """A Python package, or a shared library of one, that this environment lacks."""


def missing_package(error: BaseException) -> str | None:
    """What to install, where an error or one that caused it is a failed import.

    Args:
        error: Anything.

    Returns:
        One line that names the package; None if nothing is missing.
    """
    for cause in _chain(error):
        if isinstance(cause, ModuleNotFoundError) and (name := _module_name(cause)):
            return _missing_module(name)
    for cause in _chain(error):
        if isinstance(cause, ImportError | OSError) and _lacks_library(cause):
            reason = f"a shared library is missing ({first_line(cause)})"
            absent = absent_requirements()
            if not absent:
                return f"{reason}: install the package that brings it"
            return f"{reason}; not installed: {_told(absent)}: pip install {' '.join(absent)}"
    return None


def broken_package(error: BaseException) -> str | None:
    """Like :func:`missing_package`; also for packages that break where they lack a part.

    To be asked of errors that end the process only: an absent requirement need not be the reason.
    """
    if known := missing_package(error):
        return known
    if absent := absent_requirements():
        reason = f"{type(error).__name__}: {first_line(error)}"
        return f"{reason}; not installed: {_told(absent)}: pip install {' '.join(absent)}"
    return None


def absent_requirements() -> dict[str, str]:
    """Distributions that installed ones require and that are not installed, with who asks."""
    absent: dict[str, str] = {}
    todo = list(_ROOTS)
    seen = set(todo)
    while todo:
        name = todo.pop()
        with contextlib.suppress(metadata.PackageNotFoundError):
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
    """Names of what a distribution requires here, without extras.

    Raises:
        PackageNotFoundError: It is not installed.
    """
    requirement = _requirement_class()
    for line in metadata.requires(distribution) or ():
        if requirement is None:
            if ";" not in line:  # nobody can say whether a marker holds
                yield re.match(r"[\w.-]+", line.strip()).group()
            continue
        parsed = requirement(line)
        if parsed.marker is None or parsed.marker.evaluate({"extra": ""}):
            yield parsed.name


@functools.cache
def _requirement_class() -> type | None:
    for module in ("packaging.requirements", "pip._vendor.packaging.requirements"):
        with contextlib.suppress(ImportError):
            return import_module(module).Requirement
    return None


def _chain(error: BaseException) -> Iterable[BaseException]:
    """An error, what it was raised from, and so on."""
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        yield current
        following = None if current.__suppress_context__ else current.__context__
        current = current.__cause__ or following


def _module_name(error: ModuleNotFoundError) -> str:
    named = _NO_MODULE.search(str(error))
    return error.name or (named.group(1) if named else "")


def _missing_module(name: str) -> str:
    """One line on a module that was not found."""
    package, _, rest = name.partition(".")
    if rest and (spec := _spec(package)) is not None:
        if spec.origin is not None:
            return (
                f"the Python package '{package}' is incomplete, it has no module '{name}': "
                f"pip install --force-reinstall {_PIP_NAMES.get(package, package)}"
            )
        # Several distributions share a namespace, such as google or ruamel.
        package = ".".join(name.split(".")[:2])
    remedy = f"pip install {_PIP_NAMES.get(package, package)}"
    return f"the Python package '{package}' is missing: " + (
        _SET_UP_ROS if _ROS.fullmatch(package) else remedy
    )


def _spec(package: str) -> ModuleSpec | None:
    with contextlib.suppress(ImportError, ValueError):
        return util.find_spec(package)
    return None


def _lacks_library(error: BaseException) -> bool:
    return any(words in str(error) for words in _NO_LIBRARY)


def _told(absent: Mapping[str, str]) -> str:
    return ", ".join(f"'{name}', which {who} needs" for name, who in absent.items())


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()

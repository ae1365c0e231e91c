# SPDX-License-Identifier: Apache-2.0
"""The package's exceptions: each message names the file, topic, key or parameter at fault."""

from __future__ import annotations


class AnomalySegError(Exception):
    """Base of all errors that a user can cause and understand; tools print them and exit 1."""


class CheckpointError(AnomalySegError):
    """Weights that are missing, unreadable, unsafe or of another network."""


class DeviceError(AnomalySegError):
    """A compute device that does not exist or cannot be used."""


class DeviceMemoryError(DeviceError):
    """A compute device without enough memory."""


class ImageError(AnomalySegError):
    """An image, mask or message that is unreadable or does not match its counterpart."""


class DatasetError(AnomalySegError):
    """A data set folder without the expected tree."""


class BagError(AnomalySegError):
    """A bag that is missing, empty, truncated or without the needed topics."""


class ParameterError(AnomalySegError):
    """A parameter or option of the wrong type or out of range."""


class OutputError(AnomalySegError):
    """An output folder or file that cannot be written."""


class DiscoveryError(AnomalySegError):
    """An environment in which ROS nodes cannot find each other."""


class TrainingError(AnomalySegError):
    """A training that cannot go on: a loss that is not finite, a worker that died."""


class ExportError(AnomalySegError):
    """A network that cannot be exported, or whose export gives other outputs."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; some libraries append whole graphs."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

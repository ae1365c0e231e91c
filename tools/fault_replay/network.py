# SPDX-License-Identifier: Apache-2.0
"""A network that fails on demand as devices do: with torch's own exceptions, in its forward pass.

The replay registers it beside the package's networks and the detector loads it like any other
model; nothing in the detector knows of it.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anomaly_seg_ros.calibration import RateTable, ScoreCalibration
from anomaly_seg_ros.checkpoints.loading import save_model
from anomaly_seg_ros.checkpoints.metadata import ModelMetadata
from anomaly_seg_ros.contract import NetworkOutput, SegmentationNetwork
from anomaly_seg_ros.models.registry import ARCHITECTURES, build_network

BRITTLE = "brittle"
CALIBRATED = ("msp", "entropy", "max_logit", "energy")
_CLASSES = ("road", "building", "vegetation", "sky", "car")
_LOST = "CUDA error: unspecified launch failure"


class Switch:
    """Makes the networks of this process fail. Thread-safe.

    Attributes:
        fired: Failures so far, by kind.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._out_of_memory = 0
        self._stall_s = 0.0
        self._losses = 0
        self.fired: dict[str, int] = {"out of memory": 0, "device lost": 0, "inference slow": 0}

    def out_of_memory(self, times: int) -> None:
        """Makes the next ``times`` frames run out of memory."""
        with self._lock:
            self._out_of_memory = times

    def stall(self, seconds: float) -> None:
        """Delays the next frame."""
        with self._lock:
            self._stall_s = seconds

    def lose_device(self) -> None:
        """Makes every network that exists now fail for ever; those built later work."""
        with self._lock:
            self._losses += 1

    @property
    def losses(self) -> int:
        """How often the device was lost."""
        return self._losses

    def strike(self, losses_at_birth: int) -> None:
        """Fails or waits if told to; called at each frame.

        Args:
            losses_at_birth: ``losses`` when the calling network was built.

        Raises:
            torch.OutOfMemoryError, RuntimeError: As torch raises them.
        """
        with self._lock:
            lost = self._losses > losses_at_birth
            starved = not lost and self._out_of_memory > 0
            self._out_of_memory -= starved
            seconds, self._stall_s = self._stall_s, 0.0
            for name, happens in (
                ("device lost", lost),
                ("out of memory", starved),
                ("inference slow", seconds > 0),
            ):
                self.fired[name] += happens
        if seconds:
            time.sleep(seconds)
        if lost:
            # RuntimeError before torch 2.8.
            raise getattr(torch, "AcceleratorError", RuntimeError)(_LOST)
        if starved:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


SWITCH = Switch()


class BrittleNetwork(SegmentationNetwork):
    """Two convolutions that fail when :data:`SWITCH` says so.

    So small that nearly all the time goes into the code around the network.
    """

    output_stride = size_multiple = 8
    pre_logits_channels = 8
    outlier_head = None

    def __init__(self, num_classes: int = len(_CLASSES)) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.features = nn.Conv2d(3, self.pre_logits_channels, 8, stride=8)
        self.classifier = nn.Conv2d(self.pre_logits_channels, num_classes, 1)
        self._losses_at_birth = SWITCH.losses

    def forward(self, images: Tensor) -> NetworkOutput:
        """Maps (N, 3, H, W) to logits of an eighth of the size, or fails."""
        SWITCH.strike(self._losses_at_birth)
        pre_logits = self.features(images).relu()
        return NetworkOutput(pre_logits, self.classify(pre_logits))

    def classify(self, pre_logits: Tensor) -> Tensor:
        """Maps pre-logits to logits."""
        return self.classifier(pre_logits)


def register() -> None:
    """Enters the network into this process's model registry."""
    ARCHITECTURES[BRITTLE] = (__name__, "BrittleNetwork")


def save_brittle_model(path: Path) -> None:
    """Writes a :class:`BrittleNetwork`, for processes that call :func:`register`."""
    register()
    _save(path, BRITTLE, {"num_classes": len(_CLASSES)}, (32, 48))


def save_small_model(path: Path) -> None:
    """Writes a small model of the package's own, which any detector can load."""
    arguments = {"num_classes": len(_CLASSES), "num_outputs": len(_CLASSES)}
    _save(path, "erfnet", arguments, (64, 96))


def _save(
    path: Path, architecture: str, arguments: dict[str, Any], inference_size: tuple[int, int]
) -> None:
    """Writes a calibrated model with fixed random weights."""
    torch.manual_seed(0)
    table = RateTable((-5.0, 0.0, 1.0, 2.0), (0.9, 0.1, 0.05, 0.01))
    metadata = ModelMetadata(
        name="small",
        architecture=architecture,
        arguments=arguments,
        classes=_CLASSES,
        palette=np.arange(15, dtype=np.uint8).reshape(5, 3) * 17,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        inference_size=inference_size,
        calibration={name: ScoreCalibration(0.0, 1.0, table, table) for name in CALIBRATED},
    )
    save_model(path, build_network(architecture, arguments), metadata)

# SPDX-License-Identifier: Apache-2.0
"""What is measured: a model on a backend at a network size, with frames of a size."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import torch

from anomaly_seg_ros.checkpoints.loading import save_model
from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.io.images import read_image
from benchmarks.machine import REPOSITORY
from benchmarks.variants import build_variant, settle, variant_metadata

Size = tuple[int, int]
FRAME_SIZE = (1024, 2048)
# A model of this prefix is a variant with random weights: trained ones take the same time.
_RANDOM = "random_"
# Street scenes of 1024 x 2048 in the data folder.
_FRAMES = Path("cityscapes/leftImg8bit/train/aachen")


@dataclass(frozen=True)
class Case:
    """One row of the report. Sizes are (height, width).

    Attributes:
        model: Name or weights file, or ``random_<variant>`` of ``benchmarks.variants.VARIANTS``.
        frame_size: Size of the published images.
        network_size: Size to which the node resizes; None = the model's own.
        backend, precision: The node's parameters of these names.
    """

    model: str
    frame_size: Size = FRAME_SIZE
    network_size: Size | None = None
    backend: str = "auto"
    precision: str = "auto"

    @property
    def key(self) -> str:
        """Names the case in files that are compared."""
        network = size_text(self.network_size) if self.network_size else "own"
        frame = size_text(self.frame_size)
        return f"{self.model}/{self.backend}/{self.precision}/{network}/{frame}"


# About five minutes on two cores.
QUICK = (
    Case("default"),
    Case("default", network_size=(512, 1024)),
    Case("default", network_size=(512, 1024), frame_size=(512, 1024)),
    Case("erfnet_open_set"),
)
# The published networks, for which a CPU takes minutes a frame.
_HEAVY = ("wide_resnet38", "resnet101", "ladder_densenet121")


def full(backends: Sequence[str], heavy: bool) -> tuple[Case, ...]:
    """The quick cases, those with each backend by name, and the heavy networks if asked for."""
    by_backend = [
        Case("default", network_size=size, backend=backend)
        for backend, size in product(backends, (None, (512, 1024)))
    ]
    return (*QUICK, *by_backend, *(Case(f"{_RANDOM}{name}") for name in _HEAVY if heavy))


def chosen(
    models: Sequence[str],
    backends: Sequence[str],
    precision: str,
    network_sizes: Sequence[Size | None],
    frame_sizes: Sequence[Size],
) -> tuple[Case, ...]:
    """Every combination."""
    return tuple(
        Case(model, frame, network, backend, precision)
        for model, backend, network, frame in product(models, backends, network_sizes, frame_sizes)
    )


def parse_size(text: str) -> Size:
    """Reads ``512x1024``, height first.

    Raises:
        ParameterError: The text is no size.
    """
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not found:
        raise ParameterError(f"size {text!r}: expected height x width, such as 1024x2048")
    return int(found[1]), int(found[2])


def size_text(size: Sequence[int]) -> str:
    """``512x1024``, height first."""
    return "{}x{}".format(*size)


def model_file(model: str, folder: Path) -> str:
    """A case's model as the node takes it: a name or a file.

    Args:
        model: The case's model; a random one gets an outlier head and DenseHybrid's score.
        folder: Where a random model is written, once.
    """
    if not model.startswith(_RANDOM):
        return model
    path = folder / f"{model}.safetensors"
    if not path.exists():
        torch.manual_seed(0)
        arguments = {"outlier_head": True}
        variant = model.removeprefix(_RANDOM)
        network = settle(build_variant(variant, **arguments))
        arguments["num_classes"] = network.num_classes
        save_model(path, network, variant_metadata(variant, arguments, "dense_hybrid"))
    return str(path)


def load_frames(size: Size, count: int) -> tuple[list[np.ndarray], str]:
    """Frames to send, real ones where the machine has them, and where they come from in words.

    Args:
        size: (height, width); real frames are resized to it.
        count: Most frames.

    Returns:
        (H, W, 3) uint8 RGB each.
    """
    folder = Path(os.environ.get("ANOMALY_SEG_DATA", REPOSITORY.parent / "shared" / "data"))
    paths = sorted((folder / _FRAMES).glob("*.*"))[:count]
    if not paths:
        rng = np.random.default_rng(0)
        noise = [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)]
        return noise, "noise (no real frames: set ANOMALY_SEG_DATA)"
    return [_resized(read_image(path), size) for path in paths], f"real frames, {_FRAMES}"


def _resized(image: np.ndarray, size: Size) -> np.ndarray:
    if image.shape[:2] == size:
        return image
    interpolation = cv2.INTER_AREA if size[0] < image.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(image, size[::-1], interpolation=interpolation)

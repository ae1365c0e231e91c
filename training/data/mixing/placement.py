# SPDX-License-Identifier: Apache-2.0
"""Locations and sizes of pasted objects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from training.engine.config import check_positive, check_range, check_share

# With less ground than this share of the frame, the horizon cannot be estimated.
_MIN_GROUND_SHARE = 0.01


@dataclass(frozen=True)
class PlacementOptions:
    """Distribution of locations and sizes.

    Attributes:
        on_ground: Share of the objects that stand on the ground, with a size that follows from
            perspective. The others are placed anywhere, with a size drawn from ``free_height``.
        by_distance: Share of the objects on the ground whose distance is drawn log-uniformly. The
            others stand on a uniformly drawn ground pixel, which is mostly close to the camera.
        object_height: Range of the real heights in metres, drawn log-uniformly.
        camera_height: Height of the camera above the ground, in metres. On flat ground, an object
            of height h whose foot is d rows below the horizon is ``h / camera_height * d`` rows
            high, regardless of the focal length.
        horizon: Row of the horizon as a share of the frame height, if there is too little ground
            to estimate it.
        free_height: Range of the heights of objects placed anywhere, as shares of the frame
            height, drawn log-uniformly.
        min_rows: Minimum height and width of an object, in stored pixels.
        max_share: Maximum height and width of an object, as a share of the frame.
        max_enlargement: Maximum enlargement of an object; beyond it, there is only blur.

    Raises:
        ParameterError: A range is reversed or a value is out of range; the message names the key.
    """

    on_ground: float = 0.8
    by_distance: float = 0.5
    object_height: tuple[float, float] = (0.1, 2.5)
    camera_height: float = 1.3
    horizon: float = 0.42
    free_height: tuple[float, float] = (0.02, 0.4)
    min_rows: int = 3
    max_share: float = 0.8
    max_enlargement: float = 1.5

    def __post_init__(self) -> None:
        for key in ("on_ground", "by_distance", "max_share"):
            check_share(f"mixing.placement.{key}", getattr(self, key))
        for key in ("object_height", "free_height"):
            check_range(f"mixing.placement.{key}", getattr(self, key), positive=True)
        check_positive("mixing.placement.camera_height", self.camera_height)
        check_positive("mixing.placement.min_rows", self.min_rows)


class Box(NamedTuple):
    """Box of the pixels ``[top, top + height) x [left, left + width)``."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Slices that index an (H, W, ...) array."""
        return (
            slice(self.top, self.top + self.height),
            slice(self.left, self.left + self.width),
        )


class Ground:
    """Ground pixels of a frame, analysed once for all its objects.

    Args:
        labels: (H, W) uint8 trainIds of the frame.
        ground_ids: trainIds of the ground, such as road and sidewalk.
    """

    def __init__(self, labels: np.ndarray, ground_ids: Sequence[int]) -> None:
        # Ten times faster than numpy.isin on a frame of two million pixels.
        table = np.isin(np.arange(256), ground_ids).astype(np.uint8)
        self.mask = cv2.LUT(labels, table)
        self._in_row = cv2.reduce(self.mask, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[:, 0]
        self._up_to_row = self._in_row.cumsum()
        self.pixels = int(self._up_to_row[-1])

    def horizon(self, default_share: float) -> float:
        """Estimates the row of the horizon from the highest ground pixels.

        With an open view along the road, the ground reaches almost to the horizon. If the view is
        obstructed, the estimate is too low, which makes objects too small but never too large.

        Args:
            default_share: Row as a share of H, used if there is hardly any ground.
        """
        if self.pixels < _MIN_GROUND_SHARE * self.mask.size:
            return default_share * self.mask.shape[0]
        # The 0.2 % highest pixels may be mislabelled.
        return float(np.searchsorted(self._up_to_row, 0.002 * self.pixels))

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """Draws a ground pixel uniformly; returns (row, column)."""
        hit = int(rng.integers(self.pixels))
        row = int(np.searchsorted(self._up_to_row, hit, side="right"))
        before = int(self._up_to_row[row] - self._in_row[row])
        return row, int(np.flatnonzero(self.mask[row])[hit - before])

    def draw_by_distance(self, horizon: float, rng: np.random.Generator) -> tuple[int, int]:
        """Draws a ground pixel at a log-uniform distance; returns (row, column)."""
        # Distance is 1 / (rows below the horizon), so this weighting makes it log-uniform.
        rows = np.arange(len(self._in_row))
        weights = (self._in_row > 0) / np.maximum(rows - horizon, 2.0)
        row = int(rng.choice(rows, p=weights / weights.sum()))
        columns = np.flatnonzero(self.mask[row])
        return row, int(columns[rng.integers(columns.size)])


def place(
    shape: tuple[int, int],
    ground: Ground,
    options: PlacementOptions,
    rng: np.random.Generator,
    squeeze: float = 1.0,
) -> tuple[Box, bool]:
    """Draws a box for an object, completely inside the frame.

    Args:
        shape: (height, width) of the object.
        ground: Ground of the frame.
        options: See :class:`PlacementOptions`.
        rng: Source of all randomness.
        squeeze: True width / stored width of the frame's pixels; the object is narrower by this
            factor in a frame that is stored squeezed.

    Returns:
        The box in stored pixels, and whether the object stands on the ground.
    """
    frame_h, frame_w = ground.mask.shape
    stands = bool(rng.random() < options.on_ground and ground.pixels)
    if stands:
        horizon = ground.horizon(options.horizon)
        far = rng.random() < options.by_distance
        foot_y, foot_x = ground.draw_by_distance(horizon, rng) if far else ground.draw(rng)
        metres = _log_uniform(rng, options.object_height)
        rows = metres / options.camera_height * max(0.0, foot_y - horizon)
    else:
        foot_y, foot_x = int(rng.integers(frame_h)), int(rng.integers(frame_w))
        rows = _log_uniform(rng, options.free_height) * frame_h
    columns = rows * shape[1] / shape[0] / squeeze
    most_h = min(options.max_share * frame_h, options.max_enlargement * shape[0])
    most_w = min(options.max_share * frame_w, options.max_enlargement * shape[1])
    shrink = min(1.0, most_h / max(rows, 1), most_w / max(columns, 1))
    height = min(frame_h, max(options.min_rows, round(rows * shrink)))
    width = min(frame_w, max(options.min_rows, round(columns * shrink)))
    top = min(max(0, foot_y + 1 - height), frame_h - height)
    left = min(max(0, foot_x - width // 2), frame_w - width)
    return Box(top, left, height, width), stands


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    return math.exp(rng.uniform(math.log(bounds[0]), math.log(bounds[1])))

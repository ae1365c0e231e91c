# SPDX-License-Identifier: Apache-2.0
"""Where unknown objects are: points on them in the camera's frame, with their uncertainty.

The camera's frame is the optical one of REP 103: x right, y down, z along the optical axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from anomaly_seg_ros.errors import ParameterError
from anomaly_seg_ros.objects.regions import UnknownObject
from anomaly_seg_ros.objects.tracker import TrackedObject

# One point of a cloud; metres, and as a message carries it.
POINT = np.dtype(
    [
        *((name, "<f4") for name in ("x", "y", "z", "intensity", "range_std")),
        ("id", "<u4"),
    ]
)
POINTS_OF_AN_OBJECT = 200  # about; enough to fill the cells of a costmap
# Within an object, depths farther than so many standard deviations from their median are those
# of what is beside it: Hampel, The Influence Curve and its Role in Robust Estimation, JASA 1974.
# 1.4826 makes the median absolute deviation one of the standard deviation of a normal law.
_HAMPEL, _MAD = 3.0, 1.4826
_LEAST_SPREAD = 0.02  # of the depth: objects are not flat where a sensor is exact


@dataclass(frozen=True)
class Pinhole:
    """A rectified camera, in pixels; the centre of the first pixel is (0, 0).

    Attributes:
        fx, fy: Focal lengths.
        cx, cy: Principal point.

    Raises:
        ParameterError: A value is not finite, or a focal length not positive.
    """

    fx: float
    fy: float
    cx: float
    cy: float

    def __post_init__(self) -> None:
        for name in ("fx", "fy", "cx", "cy"):
            value = getattr(self, name)
            if not math.isfinite(value) or (name.startswith("f") and value <= 0):
                kind = "positive" if name.startswith("f") else "finite"
                raise ParameterError(f"camera: {name} must be {kind}, got {value}")

    def rays(self, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Directions of pixels, (N, 3) float64 with z = 1."""
        x = (np.asarray(columns, np.float64) - self.cx) / self.fx
        y = (np.asarray(rows, np.float64) - self.cy) / self.fy
        return np.stack((x, y, np.ones_like(x)), axis=-1)


@dataclass(frozen=True)
class Road:
    """A flat road in the camera's frame: the points p with ``down . p = height_m``.

    Attributes:
        down: Unit vector towards the road; (0, cos p, sin p) for a camera that looks down by the
            pitch p, without roll.
        height_m: Height of the camera above the road, metres.

    Raises:
        ParameterError: The height is not positive and finite.
    """

    down: tuple[float, float, float]
    height_m: float

    def __post_init__(self) -> None:
        if not 0 < self.height_m < math.inf:
            raise ParameterError(
                f"the camera must be above the road, not at a height of {self.height_m:.3g} m"
            )

    @classmethod
    def below(cls, height_m: float, pitch_down: float) -> Road:
        """The road of a camera without roll that looks down by ``pitch_down`` radians."""
        return cls((0.0, math.cos(pitch_down), math.sin(pitch_down)), height_m)

    @classmethod
    def of_pose(cls, rotation: np.ndarray, translation: np.ndarray) -> Road:
        """The plane z = 0 of another frame.

        Args:
            rotation: (3, 3), turns vectors of the camera's frame into those of the other one.
            translation: (3,) metres, the camera's position there.
        """
        down = -np.asarray(rotation, np.float64)[2]
        return cls((float(down[0]), float(down[1]), float(down[2])), float(translation[2]))


@dataclass(frozen=True)
class PointRule:
    """Which points are told, and how far they can be trusted.

    Attributes:
        max_range_m: Points farther from the camera are left out.
        row_std: Standard deviation in pixels of the row of an object's foot.
        pitch_std: Standard deviation in radians of the camera's pitch over the road: of its
            calibration, and of what braking and slopes do to it.
        disparity_std: Standard deviation of disparities, pixels.
    """

    max_range_m: float
    row_std: float
    pitch_std: float
    disparity_std: float


def points_on_road(
    objects: Sequence[TrackedObject], camera: Pinhole, road: Road, rule: PointRule
) -> np.ndarray:
    """Points of objects that stand on the road, from the rows of their feet alone.

    The ray d of the foot meets the road at t d with ``t = height / (down . d)``. The object is
    taken for an upright screen there, at a right angle to the way that the camera looks: its
    pixels are projected onto the plane through the foot whose normal is the optical axis without
    its part along ``down``.

    The standard deviation of the foot's range |t d| is that of t, times |d|. By the rows and the
    pitch p (a turn about the camera's x axis), to first order:

        dt/dv = -t^2 down_y / (height fy),  dt/dp = -t^2 (down_y - down_z d_y) / height

    Args:
        objects: Of one frame.
        camera: Its camera.
        road: The road there.
        rule: Limits and uncertainties.

    Returns:
        (N,) :data:`POINT`; nothing of objects whose foot is not below the horizon.
    """
    down = np.asarray(road.down)
    ahead = np.array([0.0, 0.0, 1.0]) - down[2] * down
    clouds = [np.empty(0, POINT)]
    for number, unknown in objects:
        foot = camera.rays(*(np.array([value]) for value in unknown.foot))[0]
        descent = float(down @ foot)
        if descent <= 0:
            continue
        stretch = road.height_m / descent
        by_row = down[1] / camera.fy * rule.row_std
        by_pitch = (down[1] - down[2] * foot[1]) * rule.pitch_std
        std = stretch**2 / road.height_m * math.hypot(by_row, by_pitch) * math.hypot(*foot)
        rays = camera.rays(*_pixels(unknown))
        reach = rays @ ahead
        seen = reach > 0
        scale = stretch * float(foot @ ahead) / reach[seen]
        clouds.append(_cloud(rays[seen] * scale[:, None], unknown, number, std, rule))
    return np.concatenate(clouds)


def points_at_depth(
    objects: Sequence[TrackedObject],
    camera: Pinhole,
    depth: Callable[[np.ndarray, np.ndarray], np.ndarray],
    rule: PointRule,
    std: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Points of objects by measured depth.

    What is seen through or beside an object has other depths; those far from the median are left
    out.

    Args:
        objects: Of one frame.
        camera: Its camera.
        depth: Gives for pixels (rows, columns), (N,) int each, metres along the optical axis,
            NaN where nothing was measured.
        rule: Limits and uncertainties.
        std: Gives the standard deviations of depths; without it that of points is NaN.

    Returns:
        (N,) :data:`POINT`.
    """
    clouds = [np.empty(0, POINT)]
    for number, unknown in objects:
        columns, rows = _pixels(unknown)
        metres = np.asarray(depth(rows, columns), np.float64)
        measured = np.isfinite(metres) & (metres > 0)
        if not measured.any():
            continue
        middle = np.median(metres[measured])
        spread = _MAD * np.median(np.abs(metres[measured] - middle))
        allowed = _HAMPEL * max(spread, _LEAST_SPREAD * middle)
        kept = measured & (np.abs(np.where(measured, metres, middle) - middle) <= allowed)
        rays, z = camera.rays(columns[kept], rows[kept]), metres[kept]
        error = np.full(len(z), np.nan) if std is None else std(z)
        error = error * np.linalg.norm(rays, axis=1)
        clouds.append(_cloud(rays * z[:, None], unknown, number, error, rule))
    return np.concatenate(clouds)


def std_by_disparity(focal_baseline: float, rule: PointRule) -> Callable[[np.ndarray], np.ndarray]:
    """Standard deviation of ``depth = focal_baseline / disparity``, to first order.

    Args:
        focal_baseline: Horizontal focal length in pixels times the baseline in metres.
        rule: Has the disparities' own.
    """
    return lambda depth: depth**2 / focal_baseline * rule.disparity_std


def moved(points: np.ndarray, rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """Points in another frame; rotation (3, 3) and translation (3,) as in :meth:`Road.of_pose`."""
    positions = np.stack([points[axis] for axis in "xyz"], axis=-1).astype(np.float64)
    result = points.copy()
    for axis, values in zip("xyz", (positions @ rotation.T + translation).T, strict=True):
        result[axis] = values
    return result


def rotation_matrix(x: float, y: float, z: float, w: float) -> np.ndarray:
    """The (3, 3) float64 rotation of a quaternion of any length but 0."""
    x, y, z, w = np.array((x, y, z, w)) / math.sqrt(x * x + y * y + z * z + w * w)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _pixels(unknown: UnknownObject) -> tuple[np.ndarray, np.ndarray]:
    """(columns, rows) of a grid of an object's pixels that begins at its foot."""
    step = max(1, math.isqrt(unknown.area // POINTS_OF_AN_OBJECT))
    # From below, so that thin feet and small objects have points.
    rows, columns = np.nonzero(unknown.mask[::-step, ::step])
    bottom = unknown.box.top + unknown.box.height - 1
    return unknown.box.left + columns * step, bottom - rows * step


def _cloud(
    positions: np.ndarray,
    unknown: UnknownObject,
    number: int,
    std: float | np.ndarray,
    rule: PointRule,
) -> np.ndarray:
    cloud = np.empty(len(positions), POINT)
    cloud["x"], cloud["y"], cloud["z"] = positions.T
    cloud["intensity"], cloud["range_std"], cloud["id"] = unknown.score, std, number
    return cloud[np.linalg.norm(positions, axis=1) <= rule.max_range_m]

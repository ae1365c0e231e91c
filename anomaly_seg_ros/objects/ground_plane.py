# SPDX-License-Identifier: Apache-2.0
"""How far the road is that a row of the image shows, from the camera's mounting alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anomaly_seg_ros.errors import ParameterError


@dataclass(frozen=True)
class GroundPlane:
    """A flat road seen by a camera without roll.

    In the camera's frame (x right, y down, z along the optical axis) a camera that looks down by
    the pitch p sees "down" as (0, cos p, sin p). A point of the road lies ``height_m`` that way:

        height = y cos p + z sin p,  and with  y = z (v - cy) / fy:
        z = height / (cos p (v - cy) / fy + sin p)

    The error of a pitch that is off by d grows as ``z^2 d / height``: half a degree is 0.7 m at
    10 m, and 6 m at 30 m, for a camera 1.3 m above the road.

    Attributes:
        fy, cy: Focal length and principal point of the rectified image in pixels, vertically.
        height_m: Height of the camera above the road, metres.
        pitch_down: Angle between the optical axis and the road, radians, positive if the camera
            looks down.

    Raises:
        ParameterError: A value is not finite, or the focal length or the height not positive.
    """

    fy: float
    cy: float
    height_m: float
    pitch_down: float = 0.0

    def __post_init__(self) -> None:
        for name in ("fy", "cy", "height_m", "pitch_down"):
            value = getattr(self, name)
            if not np.isfinite(value) or (name in ("fy", "height_m") and value <= 0):
                raise ParameterError(f"ground plane: {name} must be positive, got {value}")

    def distance(self, row: float | np.ndarray) -> np.ndarray:
        """Distance of the road along the optical axis.

        Args:
            row: Image rows in pixels, of any shape; the centre of the first row is 0.

        Returns:
            float64 metres of the same shape, NaN on the horizon and above.
        """
        slope = (np.asarray(row, np.float64) - self.cy) / self.fy
        down = np.cos(self.pitch_down) * slope + np.sin(self.pitch_down)
        with np.errstate(divide="ignore"):
            return np.where(down > 0, self.height_m / down, np.nan)

    def distance_or_none(self, row: float) -> float | None:
        """:meth:`distance` of one row, None on the horizon and above."""
        metres = float(self.distance(row))
        return metres if np.isfinite(metres) else None

"""The camera in the car: intrinsics, mounting, drive."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class ClipCamera:
    """A rectified stereo camera's left eye, close to the one that took Cityscapes.

    Attributes:
        fx, fy, cx, cy: in pixels, at width x height.
        width, height: in pixels.
        baseline_m: distance of the (not rendered) right eye.
        frame_rate: frames per second.
        speed_mps: of the car.
        height_m: above the road.
        pitch_down_deg: how far the optical axis points below the horizon.
    """

    fx: float = 1100.0
    fy: float = 1100.0
    cx: float = 512.0
    cy: float = 256.0
    width: int = 1024
    height: int = 512
    baseline_m: float = 0.22
    frame_rate: float = 10.0
    speed_mps: float = 8.0
    height_m: float = 1.3
    pitch_down_deg: float = 2.0
    x_m: float = 1.55

    def position(self, time: float) -> tuple[float, float, float]:
        """Where the camera is in the world at a time in seconds; the car bounces a little."""
        bounce = 0.012 * math.sin(2 * math.pi * 1.3 * time)
        return self.x_m, self.speed_mps * time, self.height_m + bounce

    def pitch(self, time: float) -> float:
        """Downward pitch in radians at a time in seconds."""
        return math.radians(self.pitch_down_deg + 0.12 * math.sin(2 * math.pi * 1.1 * time + 1))

    def to_json(self) -> dict[str, float]:
        """The fields that the clip's users need."""
        return asdict(self)

# SPDX-License-Identifier: Apache-2.0
"""Paint, chalk, stains and shadows on the ground, which are still road.

A network that learns "foreign pixels on the road" from pasted objects also reports drawings and
patches, a common false alarm according to the top-K one-vs-rest paper (section 4.3). Unlike
objects, they are flat and the ground shows through. They are painted as decoys, which change the
image but not the label.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from training.data.mixing.placement import Ground
from training.engine.config import check_counts, check_range, check_share

_NOISE_CELL = 8


@dataclass(frozen=True)
class PaintOptions:
    """Settings of the paint.

    Attributes:
        probability: Share of the frames with paint.
        patches: Minimum and maximum number of patches in such a frame.
        metres: Range of the widths, drawn log-uniformly.
        opacity: Range of the opacity.
        dark: Share of the patches that only darken, such as stains and shadows.
        outline: Share of the patches that are drawn as an outline only.

    Raises:
        ParameterError: A range is reversed or a value is out of range; the message names the key.
    """

    probability: float = 0.0
    patches: tuple[int, int] = (1, 3)
    metres: tuple[float, float] = (0.3, 3.0)
    opacity: tuple[float, float] = (0.2, 0.7)
    dark: float = 0.3
    outline: float = 0.35

    def __post_init__(self) -> None:
        for key in ("probability", "dark", "outline"):
            check_share(f"mixing.paint.{key}", getattr(self, key))
        check_counts("mixing.paint.patches", self.patches)
        check_range("mixing.paint.metres", self.metres, positive=True)
        check_range("mixing.paint.opacity", self.opacity, most=1)


def paint_ground(
    frame: np.ndarray,
    ground: Ground,
    shape: np.ndarray,
    options: PaintOptions,
    camera: tuple[float, float],
    rng: np.random.Generator,
    squeeze: float = 1.0,
) -> None:
    """Paints one patch on the ground, in place.

    Args:
        frame: (H, W, 3) uint8 RGB.
        ground: Ground of the frame; nothing else is painted.
        shape: (h, w) bool, shape of the patch.
        options: See :class:`PaintOptions`.
        camera: Height of the camera in metres, and default row of the horizon as a share of H.
        rng: Source of all randomness.
        squeeze: True width / stored width of the frame's pixels.
    """
    if not ground.pixels:
        return
    height, default_horizon = camera
    row, column = ground.draw(rng)
    below = max(2.0, row - ground.horizon(default_horizon))
    metres = np.exp(rng.uniform(*np.log(options.metres)))
    true_width = metres / height * below
    # A flat patch appears foreshortened.
    rows = max(2, round(true_width * rng.uniform(0.08, 0.4)))
    columns = max(2, round(true_width / squeeze))
    coverage = _drawn(shape, (columns, rows), rng.random() < options.outline)
    coverage *= _worn(coverage.shape, rng) * rng.uniform(*options.opacity)
    if rng.random() < options.dark:
        colour = np.zeros(3, np.float32)
    else:
        colour = rng.uniform(60, 255, 3).astype(np.float32)
    top, left = row - rows // 2, column - columns // 2
    inner_top, inner_left = max(0, -top), max(0, -left)
    top, left = max(0, top), max(0, left)
    region = frame[top : top + rows - inner_top, left : left + columns - inner_left]
    alpha = coverage[inner_top:, inner_left:][: region.shape[0], : region.shape[1]]
    on_ground = ground.mask[top : top + alpha.shape[0], left : left + alpha.shape[1]]
    alpha = (alpha * on_ground)[..., None]
    region[:] = np.rint(region + alpha * (colour - region)).astype(np.uint8)


def _drawn(shape: np.ndarray, size: tuple[int, int], outline: bool) -> np.ndarray:
    """Draws a shape as (h, w) float32 coverage in [0, 1]; ``size`` is (width, height)."""
    mask = shape.astype(np.uint8)
    if outline:
        thickness = max(3, min(mask.shape) // 6)
        inside = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        inside = cv2.erode(inside, np.ones((thickness, thickness), np.uint8))[1:-1, 1:-1]
        mask = mask - inside
    return cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)


def _worn(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draws wear as smooth noise, (h, w) float32 in [0.3, 1]."""
    cells = [max(2, -(-n // _NOISE_CELL)) for n in shape]
    noise = rng.uniform(0.3, 1.0, cells).astype(np.float32)
    return cv2.resize(noise, shape[::-1], interpolation=cv2.INTER_LINEAR)

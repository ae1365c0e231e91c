# SPDX-License-Identifier: Apache-2.0
"""Blending an object into a frame."""

from __future__ import annotations

import cv2
import numpy as np

from training.data.mixing.placement import Box


def fit_to_box(
    image: np.ndarray, mask: np.ndarray, box: Box, mirror: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Resamples an object to the size of its box.

    Args:
        image: (h, w, 3) uint8 RGB.
        mask: (h, w) bool.
        box: Location in the frame.
        mirror: Flip the object horizontally.

    Returns:
        Colours (box.height, box.width, 3) uint8 and coverage (box.height, box.width) float32 in
        [0, 1].
    """
    if mirror:
        image, mask = image[:, ::-1], mask[:, ::-1]
    size = (box.width, box.height)
    coverage = mask.astype(np.float32)
    shrinks = box.height < mask.shape[0] or box.width < mask.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    # Weighted by coverage, so that the old background does not bleed into the rim.
    weighted = cv2.resize(image * coverage[..., None], size, interpolation=method)
    resized = cv2.resize(coverage, size, interpolation=method)
    colours = weighted / np.maximum(resized, 1e-3)[..., None]
    return np.clip(np.rint(colours), 0, 255).astype(np.uint8), resized


def soften(coverage: np.ndarray, sigma: float) -> np.ndarray:
    """Blurs the coverage inwards only, so that no old background becomes visible.

    Args:
        coverage: (h, w) float32 in [0, 1].
        sigma: Sigma of the Gaussian in pixels; 0 gives a hard edge.
    """
    if sigma <= 0:
        return (coverage >= 0.5).astype(np.float32)
    padded = cv2.copyMakeBorder(coverage, 4, 4, 4, 4, cv2.BORDER_CONSTANT, value=0)
    blurred = cv2.GaussianBlur(padded, (0, 0), sigma)[4:-4, 4:-4]
    return np.where(coverage > 0.05, np.minimum(blurred, coverage), 0).astype(np.float32)


def cast_shadow(frame: np.ndarray, box: Box, strength: float, squeeze: float) -> None:
    """Draws a contact shadow on the ground around an object's foot, in place.

    Real objects have a soft dark rim where they touch the road; without it, they seem to float.

    Args:
        frame: (H, W, 3) uint8 RGB.
        box: Box of the object.
        strength: Share of the light lost at the foot, in [0, 1].
        squeeze: True width / stored width of the frame's pixels.
    """
    flat = max(1.0, 0.12 * box.width * squeeze)
    wide = 0.55 * box.width
    centre = (box.left + box.width / 2, box.top + box.height - flat / 2)
    top, bottom = int(centre[1] - 3 * flat), int(centre[1] + 3 * flat) + 1
    left, right = int(centre[0] - 2 * wide), int(centre[0] + 2 * wide) + 1
    top, left = max(0, top), max(0, left)
    region = frame[top:bottom, left:right]
    y = (np.arange(top, top + region.shape[0]) - centre[1])[:, None] / flat
    x = (np.arange(left, left + region.shape[1]) - centre[0])[None] / wide
    shade = strength * np.exp(-(x**4) - y**2 / 2)
    region[:] = np.rint(region * (1 - shade[..., None])).astype(np.uint8)


def blend(
    frame: np.ndarray,
    labels: np.ndarray,
    colours: np.ndarray,
    coverage: np.ndarray,
    box: Box,
    label: int,
    rim_label: int,
) -> None:
    """Writes an object into a frame, in place.

    Args:
        frame: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8.
        colours: (h, w, 3) uint8.
        coverage: (h, w) float32 in [0, 1].
        box: Location of the object.
        label: Label of pixels that the object covers at least by half.
        rim_label: Label of other pixels that it visibly touches.
    """
    region = frame[box.slices]
    alpha = coverage[..., None]
    region[:] = np.rint(region + alpha * (colours.astype(np.float32) - region)).astype(np.uint8)
    target = labels[box.slices]
    target[coverage >= 0.5] = label
    target[(coverage > 0.1) & (coverage < 0.5)] = rim_label

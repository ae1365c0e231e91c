"""From rendered passes to the files of the clip."""

from __future__ import annotations

import cv2
import numpy as np

from clip.camera import ClipCamera
from clip.layout import ANOMALY, SKY, VOID

IGNORE = 255
DISPARITY_STEP = 64
"""Disparities are rounded to 1/4 px (64 / 256), as a stereo matcher's are; it halves the files."""

LENS_BLUR = 0.65
"""Standard deviation of the lens's point spread, in pixels."""


def develop(light: np.ndarray, exposure: float, seed: int) -> np.ndarray:
    """Linear light to what the camera's chip and its processor would give.

    Args:
        light: (H, W, 3) float32, linear.
        exposure: factor before the tone curve.
        seed: of the sensor noise.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    height, width = light.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    falloff = 1.0 - 0.10 * (x**2 + 0.25 * y**2)
    # No lens is as sharp as a renderer; segmenters trained on photographs miss its softness.
    soft = cv2.GaussianBlur(light, (0, 0), LENS_BLUR)
    signal = np.maximum(soft * exposure * falloff[..., None], 0.0)
    rng = np.random.default_rng(seed)
    # Shot noise grows with the root of the light, read noise does not depend on it.
    spread = np.sqrt(1.2e-5 * signal + 1e-6)
    signal = np.maximum(signal + spread * rng.standard_normal(signal.shape), 0.0)
    # Narkowicz, "ACES filmic tone mapping curve" (2015): a shoulder that keeps the sky's colour.
    toned = signal * (2.51 * signal + 0.03) / (signal * (2.43 * signal + 0.59) + 0.14)
    toned = np.clip(toned, 0.0, 1.0)
    encoded = np.where(toned <= 0.0031308, 12.92 * toned, 1.055 * toned ** (1 / 2.4) - 0.055)
    return np.rint(255 * encoded).astype(np.uint8)


def labels_and_mask(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class ids to trainIds and anomaly mask, both (H, W) uint8."""
    labels = np.where(ids < 0, SKY, ids)
    mask = np.zeros(ids.shape, dtype=np.uint8)
    mask[ids == ANOMALY] = 1
    mask[ids == VOID] = IGNORE
    labels = np.where((ids == ANOMALY) | (ids == VOID), IGNORE, labels)
    return labels.astype(np.uint8), mask


def disparity(depth: np.ndarray, camera: ClipCamera) -> np.ndarray:
    """Depth to stored disparity: (H, W) uint16, 256 x disparity in pixels, 0 where unknown."""
    pixels = camera.fx * camera.baseline_m / depth
    return (np.rint(256 * pixels / DISPARITY_STEP) * DISPARITY_STEP).astype(np.uint16)


def encode_image(rgb: np.ndarray, quality: int) -> bytes:
    """A picture as JPEG."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    return _encode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1])


def encode_map(values: np.ndarray) -> bytes:
    """Labels, a mask or disparities as PNG."""
    # Ids repeat without a gradient, so that the plain filter packs them best.
    strategy = cv2.IMWRITE_PNG_STRATEGY_DEFAULT
    return _encode(
        ".png", values, [cv2.IMWRITE_PNG_COMPRESSION, 9, cv2.IMWRITE_PNG_STRATEGY, strategy]
    )


def _encode(suffix: str, array: np.ndarray, options: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, array, options)
    if not done:
        raise OSError(f"cannot encode a {suffix} file")
    return data.tobytes()

"""Images that are released as a difference to another data set's image.

Fishyscapes Static may not redistribute Cityscapes, so it ships what its objects change:
``image = clip(Cityscapes + overlay, 0, 255)`` (``fishyscapes_tfds.py`` of hermannsblum's
bdl-benchmark).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from anomaly_seg_ros.errors import ImageError
from anomaly_seg_ros.io.array_files import DAMAGED, read_npz

KEY = "rgb"
# Bytes of the widest integers.
_WIDEST = 8


def add_overlay(image: np.ndarray, path: Path) -> np.ndarray:
    """Adds an overlay file to an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        path: npz file whose array "rgb" is (H, W, 3) of any integer type.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImageError: The file is missing or damaged, or its array has another shape or type.
    """
    try:
        overlay = read_npz(path, largest=_WIDEST * image.size)[KEY]
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except DAMAGED as error:
        raise ImageError(f"{path}: no npz file with an array '{KEY}' ({error})") from error
    if overlay.shape != image.shape or overlay.dtype.kind not in "iu":
        raise ImageError(
            f"{path}: expected whole numbers of shape {image.shape}, got {overlay.dtype} of "
            f"shape {overlay.shape}"
        )
    return np.clip(image.astype(np.int32) + overlay.astype(np.int32), 0, 255).astype(np.uint8)

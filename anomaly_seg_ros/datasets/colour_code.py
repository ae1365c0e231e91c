"""Label images that store a colour instead of a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomaly_seg_ros.errors import ImageError
from anomaly_seg_ros.io.images import read_image

MOST_COLOURS = 255
# What an undefined colour becomes where that is allowed.
UNDEFINED = 255


@dataclass(frozen=True)
class ColourCode:
    """The colours of a label image.

    Attributes:
        colours: RGB, all different, at most 255; the position is the value a colour stands for.
        strict: Whether any other colour is an error; otherwise it becomes 255.
    """

    colours: tuple[tuple[int, int, int], ...]
    strict: bool = True

    def read(self, path: Path) -> np.ndarray:
        """Reads a colour-coded label file.

        Args:
            path: A lossless image.

        Returns:
            (H, W) uint8 positions in ``colours``.

        Raises:
            ImageError: Unreadable, a JPEG, or (if strict) a colour that is not defined.
        """
        if path.suffix.lower() in (".jpg", ".jpeg"):
            raise ImageError(f"{path}: a JPEG cannot hold labels (lossy); use PNG")
        image = read_image(path, upright=False)
        codes = _packed(self.colours)
        order = np.argsort(codes)
        pixels = _packed(image)
        nearest = np.searchsorted(codes[order], pixels).clip(max=len(order) - 1)
        found = codes[order][nearest] == pixels
        if self.strict and not found.all():
            red, green, blue = image[~found][0]
            raise ImageError(
                f"{path}: holds the colour #{red:02x}{green:02x}{blue:02x}, which is no label "
                "of this data set"
            )
        return np.where(found, order.astype(np.uint8)[nearest], np.uint8(UNDEFINED))


def _packed(colours: np.ndarray | Sequence[Sequence[int]]) -> np.ndarray:
    """One uint32 a colour: (..., 3) -> (...)."""
    red, green, blue = np.moveaxis(np.asarray(colours, np.uint32), -1, 0)
    return (red << 16) | (green << 8) | blue

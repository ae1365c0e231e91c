"""How stored label values and colours become trainIds and anomaly masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomaly_seg_ros.errors import ImageError
from anomaly_seg_ros.io.images import read_image
from anomaly_seg_ros.labels import IGNORE_INDEX, INVALID_ID

MOST_COLOURS = 255
# Value of undefined colours, if these are allowed.
UNDEFINED = 255


def lookup_table(mapping: Mapping[int, int], ignored: Iterable[int] | None = None) -> np.ndarray:
    """A (256,) uint8 table for ``table[label]``.

    Args:
        mapping: Stored label -> new label.
        ignored: Stored labels that become 255; all others are then invalid, and reading one is an
            error. None ignores all labels that the mapping does not name.
    """
    table = np.full(256, IGNORE_INDEX if ignored is None else INVALID_ID, np.uint8)
    table[list(ignored or ())] = IGNORE_INDEX
    for source, target in mapping.items():
        table[source] = target
    return table


def anomaly_table(
    known: Iterable[int], unknown: Iterable[int], ignored: Iterable[int] | None = None
) -> np.ndarray:
    """A (256,) uint8 table from stored labels to 0 known, 1 anomaly, 255 ignore.

    Args:
        known: Stored labels that become 0.
        unknown: Stored labels that become 1.
        ignored: Stored labels that become 255; all others are then invalid, and reading one is an
            error. None ignores all labels that are neither known nor unknown.
    """
    table = np.full(256, IGNORE_INDEX if ignored is None else INVALID_ID, np.uint8)
    table[list(ignored or ())] = IGNORE_INDEX
    table[list(known)] = 0
    table[list(unknown)] = 1
    return table


@dataclass(frozen=True)
class ColourCode:
    """The colours of a label image.

    Attributes:
        colours: RGB, all different, at most 255; a colour stands for its position.
        strict: True makes any other colour an error; False turns it into 255.
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
            ImageError: The file is unreadable or a JPEG, or (if strict) holds an undefined colour.
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
    """Packs colours, one uint32 each: (..., 3) -> (...)."""
    red, green, blue = np.moveaxis(np.asarray(colours, np.uint32), -1, 0)
    return (red << 16) | (green << 8) | blue

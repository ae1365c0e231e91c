"""Class names and colours for weights that come without them."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomaly_seg_ros.errors import CheckpointError
from anomaly_seg_ros.io.safe_yaml_json import read_yaml
from anomaly_seg_ros.taxonomy import load_taxonomy

# Of the public releases; each has another number of classes.
_TAXONOMIES = ("cityscapes", "streethazards")


@dataclass(frozen=True)
class Labels:
    """The classes of a model.

    Attributes:
        classes: Names in trainId order.
        palette: (K, 3) uint8 RGB.
        guessed: Whether the names are numbers, because nothing says what they mean.
    """

    classes: tuple[str, ...]
    palette: np.ndarray
    guessed: bool = False


def known_labels(num_classes: int) -> Labels | None:
    """The data set of public releases that has so many classes, or None."""
    for name in _TAXONOMIES:
        taxonomy = load_taxonomy(name)
        if len(taxonomy.classes) == num_classes:
            return Labels(taxonomy.classes, taxonomy.palette)
    return None


def numbered_labels(num_classes: int) -> Labels:
    """Numbers for names, and colours evenly round the colour wheel."""
    wheel = [colorsys.hsv_to_rgb(i / num_classes, 0.75, 0.9) for i in range(num_classes)]
    palette = np.rint(255 * np.array(wheel).reshape(-1, 3)).astype(np.uint8)
    return Labels(tuple(f"class {i}" for i in range(num_classes)), palette, guessed=True)


def _name(value: str | float) -> str:
    if not isinstance(value, str | int | float):  # a number is a name, too; a list is not
        raise TypeError("a name must be a text")
    return str(value)


def read_labels(path: Path) -> Labels:
    """Reads a taxonomy file.

    Args:
        path: YAML like ``config/taxonomies/cityscapes.yaml``: ``classes`` is a list of
            ``{name: ..., colour: [red, green, blue]}`` in trainId order.

    Raises:
        CheckpointError: Missing or of another shape; names the entry at fault.
    """
    content = read_yaml(path, CheckpointError)
    entries = content.get("classes") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise CheckpointError(f"{path}: expected a list 'classes' of {{name, colour}}")
    names, palette = [], []
    for index, entry in enumerate(entries):
        try:
            names.append(_name(entry["name"]))
            red, green, blue = (int(value) for value in entry["colour"])
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(
                f"{path}: class {index} must be {{name: ..., colour: [red, green, blue]}}"
            ) from error
        if not all(0 <= value <= 255 for value in (red, green, blue)):
            raise CheckpointError(f"{path}: class {index}: colour outside 0 to 255")
        palette.append((red, green, blue))
    if len(set(names)) != len(names):
        raise CheckpointError(f"{path}: two classes have the same name")
    return Labels(tuple(names), np.array(palette, np.uint8))

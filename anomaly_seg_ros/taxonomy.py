"""Class names, trainIds and colours, from ``config/taxonomies`` or a user's file."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomaly_seg_ros.errors import CheckpointError
from anomaly_seg_ros.io.safe_yaml_json import read_yaml
from anomaly_seg_ros.system.resources import config_path

# The data sets of public releases; each has another number of classes.
_OF_RELEASES = ("cityscapes", "streethazards")


@dataclass(frozen=True)
class Taxonomy:
    """The closed set of classes a model knows.

    Attributes:
        name: File stem under ``config/taxonomies``, or where else the classes come from.
        classes: Names in trainId order.
        palette: (K, 3) uint8 RGB in trainId order.
        guessed: The names are numbers, because nothing says what they mean.
    """

    name: str
    classes: tuple[str, ...]
    palette: np.ndarray
    guessed: bool = False


def load_taxonomy(name: str = "cityscapes") -> Taxonomy:
    """Reads a taxonomy of this package.

    Raises:
        ResourceError: There is no such file in ``config/taxonomies``.
    """
    return read_taxonomy(config_path(f"taxonomies/{name}.yaml"))


def known_taxonomy(num_classes: int) -> Taxonomy | None:
    """The data set of public releases that has this many classes, or None."""
    taxonomies = (load_taxonomy(name) for name in _OF_RELEASES)
    return next((found for found in taxonomies if len(found.classes) == num_classes), None)


def numbered_taxonomy(num_classes: int) -> Taxonomy:
    """Numbers for names, and colours evenly round the colour wheel."""
    wheel = [colorsys.hsv_to_rgb(i / num_classes, 0.75, 0.9) for i in range(num_classes)]
    palette = np.rint(255 * np.array(wheel).reshape(-1, 3)).astype(np.uint8)
    names = tuple(f"class {i}" for i in range(num_classes))
    return Taxonomy("numbered", names, palette, guessed=True)


def read_taxonomy(path: Path) -> Taxonomy:
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
    return Taxonomy(path.stem, tuple(names), np.array(palette, np.uint8))


def _name(value: str | float) -> str:
    if not isinstance(value, str | int | float):  # a number is a name, too; a list is not
        raise TypeError("a name must be a text")
    return str(value)

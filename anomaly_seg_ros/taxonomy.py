# SPDX-License-Identifier: Apache-2.0
"""Class names, trainIds and colours, from ``config/taxonomies`` or a user's file."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomaly_seg_ros.errors import CheckpointError
from anomaly_seg_ros.io.safe_yaml_json import read_yaml, short_repr
from anomaly_seg_ros.labels import UNKNOWN_ID
from anomaly_seg_ros.system.resources import config_path

GROUND, THING = ROLES = ("ground", "thing")
# Training uses the values from 253 on for pixels of no class.
MOST_CLASSES = UNKNOWN_ID
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
        roles: For each class what training may do with it: put objects on it ("ground"), cut it
            out as an object ("thing"), or neither (""). Empty if no class has a role.
    """

    name: str
    classes: tuple[str, ...]
    palette: np.ndarray
    guessed: bool = False
    roles: tuple[str, ...] = ()

    def ids_of(self, role: str) -> tuple[int, ...]:
        """The trainIds of the classes with a role of ``ROLES``, rising."""
        return tuple(index for index, own in enumerate(self.roles) if own == role)


def load_taxonomy(name: str | Path = "cityscapes") -> Taxonomy:
    """Reads a taxonomy of this package, or a user's file.

    Args:
        name: A file stem of ``config/taxonomies``; anything with a suffix or a folder is the path
            of a file.

    Raises:
        ResourceError: There is no such file in ``config/taxonomies``.
        CheckpointError: As for :func:`read_taxonomy`.
    """
    path = Path(name)
    if path.suffix or len(path.parts) > 1:
        return read_taxonomy(path.expanduser())
    return named_taxonomy(str(name))


def named_taxonomy(name: str) -> Taxonomy:
    """Reads a taxonomy of this package and nothing else, whatever the name says.

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
            ``{name: ..., colour: [red, green, blue]}`` in trainId order, at most 253. Each may
            have a ``role`` of ``ROLES``.

    Raises:
        CheckpointError: Missing or of another shape; names the entry at fault.
    """
    content = read_yaml(path, CheckpointError)
    entries = content.get("classes") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise CheckpointError(f"{path}: expected a list 'classes' of {{name, colour}}")
    if len(entries) > MOST_CLASSES:
        raise CheckpointError(f"{path}: {len(entries)} classes; at most {MOST_CLASSES} have ids")
    names, palette, roles = [], [], []
    for index, entry in enumerate(entries):
        try:
            names.append(_name(entry["name"]))
            red, green, blue = (int(value) for value in entry["colour"])
            role = entry.get("role", "")
        except (LookupError, AttributeError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(
                f"{path}: class {index} must be {{name: ..., colour: [red, green, blue]}}"
            ) from error
        if not all(0 <= value <= 255 for value in (red, green, blue)):
            raise CheckpointError(f"{path}: class {index}: colour outside 0 to 255")
        if role not in ("", *ROLES):
            raise CheckpointError(
                f"{path}: class {index} ({names[-1]}): role must be {' or '.join(ROLES)}, got "
                f"{short_repr(role)}"
            )
        palette.append((red, green, blue))
        roles.append(role)
    if len(set(names)) != len(names):
        raise CheckpointError(f"{path}: two classes have the same name")
    return Taxonomy(
        path.stem,
        tuple(names),
        np.array(palette, np.uint8),
        roles=tuple(roles) if any(roles) else (),
    )


def _name(value: str | float) -> str:
    if not isinstance(value, str | int | float):  # a number is a name, too; a list is not
        raise TypeError("a name must be a text")
    return str(value)

# SPDX-License-Identifier: Apache-2.0
"""Label maps: YAML files that define the stored label values of a folder of images.

::

    taxonomy: cityscapes      # of the class names and trainIds, default cityscapes; or a file in
                              # the label map's folder, such as classes.yaml
    labels:                   # stored value: meaning
      0: road                 # a class of the taxonomy, by name or trainId
      1: 13
      2: anomaly              # no class of the taxonomy
      3: known                # in-distribution, but no class in particular
      255: ignore
    others: error             # values not named: error (default), ignore, known or anomaly

Colour-coded labels have quoted colours as keys, such as ``"#804080": road``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomaly_seg_ros.datasets.label_codes import MOST_COLOURS, ColourCode
from anomaly_seg_ros.errors import DatasetError
from anomaly_seg_ros.io.safe_yaml_json import inside, read_yaml, short_repr
from anomaly_seg_ros.labels import IGNORE_INDEX, INVALID_ID
from anomaly_seg_ros.taxonomy import load_taxonomy

KEYS = ("taxonomy", "labels", "others")
_COLOUR = re.compile(r"#([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})")
# Meaning -> trainId and anomaly mask value.
_WORDS = {"ignore": (IGNORE_INDEX, 255), "known": (IGNORE_INDEX, 0), "anomaly": (IGNORE_INDEX, 1)}
_ERROR = (INVALID_ID, INVALID_ID)


@dataclass(frozen=True)
class LabelMap:
    """The meaning of a folder's stored values.

    Attributes:
        taxonomy_name: Name or path of the taxonomy whose trainIds ``labels_table`` holds.
        has_labels: True if some value is a class.
        has_mask: True if some value is "anomaly" or "known".
        labels_table: (256,) uint8 stored value -> trainId; None if the files store trainIds.
        anomaly_mask_table: (256,) uint8 stored value -> 0 / 1 / 255; None if stored so.
        colour_code: Colours that stand for stored values; None without colours.
    """

    taxonomy_name: str
    has_labels: bool
    has_mask: bool
    labels_table: np.ndarray | None = None
    anomaly_mask_table: np.ndarray | None = None
    colour_code: ColourCode | None = None


def read_label_map(path: str | Path) -> LabelMap:
    """Reads a label map.

    Raises:
        DatasetError: The file is unreadable, not YAML, or has a wrong entry; names both.
        CheckpointError: The taxonomy's file is missing or damaged.
        ResourceError: There is no such taxonomy.
    """
    path = Path(path)
    content = _read_yaml(path)
    for key in content:
        if key not in KEYS:
            raise DatasetError(f"{path}: unknown key {short_repr(key)} (known: {', '.join(KEYS)})")
    entries = content.get("labels")
    if not isinstance(entries, dict) or not entries:
        raise DatasetError(f"{path}: key 'labels' must map stored values to their meaning")
    taxonomy_name = _taxonomy(content.get("taxonomy", "cityscapes"), path)
    names = load_taxonomy(taxonomy_name).classes
    others = _others(content.get("others", "error"), path)
    colours = _colours(list(entries), path)
    stored = range(len(entries)) if colours else [_stored_value(x, path) for x in entries]
    meanings = [_meaning(key, value, names, path) for key, value in entries.items()]
    tables = np.full((256, 2), others, np.uint8)
    tables[list(stored)] = meanings
    used = {*meanings, others}
    return LabelMap(
        taxonomy_name,
        has_labels=any(train_id < len(names) for train_id, _ in used),
        has_mask=bool(used & {_WORDS["anomaly"], _WORDS["known"]}),
        labels_table=tables[:, 0],
        anomaly_mask_table=tables[:, 1],
        colour_code=ColourCode(colours, strict=others == _ERROR) if colours else None,
    )


def _read_yaml(path: Path) -> Mapping[str, object]:
    content = read_yaml(path, DatasetError)
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: expected a mapping with the key 'labels'")
    return content


def _taxonomy(name: object, path: Path) -> str:
    """The taxonomy's name, or the path of its file, which lies beside the label map."""
    try:
        file = inside(path.parent, name)
    except ValueError:
        raise DatasetError(
            f"{path}: key 'taxonomy' must be a name, or that of a file in the same folder; got "
            f"{short_repr(name)}"
        ) from None
    return str(file) if file.suffix else file.name


def _others(word: object, path: Path) -> tuple[int, int]:
    if isinstance(word, str) and word == "error":
        return _ERROR
    if not isinstance(word, str) or word not in _WORDS:
        raise DatasetError(
            f"{path}: key 'others' must be error, {', '.join(_WORDS)}; got {short_repr(word)}"
        )
    return _WORDS[word]


def _stored_value(key: object, path: Path) -> int:
    if isinstance(key, bool) or not isinstance(key, int) or not 0 <= key <= 255:
        raise DatasetError(
            f"{path}: {short_repr(key)} in 'labels' is no stored value: expected 0 to 255, or "
            '"#rrggbb" for all'
        )
    return key


def _colours(keys: list[object], path: Path) -> tuple[tuple[int, int, int], ...]:
    """The keys as RGB if the first is a colour; otherwise empty."""
    if not (isinstance(keys[0], str) and _COLOUR.fullmatch(keys[0])):
        return ()
    colours = []
    for key in keys:
        match = _COLOUR.fullmatch(key) if isinstance(key, str) else None
        if match is None:
            raise DatasetError(
                f"{path}: {short_repr(key)} in 'labels' is no colour such as \"#804080\""
            )
        red, green, blue = (int(part, 16) for part in match.groups())
        if (red, green, blue) in colours:
            raise DatasetError(f"{path}: the colour {key} stands twice in 'labels'")
        colours.append((red, green, blue))
    if len(colours) > MOST_COLOURS:
        raise DatasetError(f"{path}: more than {MOST_COLOURS} colours")
    return tuple(colours)


def _meaning(key: object, value: object, names: tuple[str, ...], path: Path) -> tuple[int, int]:
    """The meaning of one entry, as trainId and anomaly mask value."""
    if isinstance(value, str) and value in names:
        return names.index(value), 0
    if isinstance(value, str) and value in _WORDS:
        return _WORDS[value]
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
        return value, 0
    raise DatasetError(
        f"{path}: {short_repr(value)} in 'labels' for {short_repr(key)} is none of "
        f"{', '.join(_WORDS)}, "
        f"no trainId below {len(names)} and no class: {', '.join(names)}"
    )

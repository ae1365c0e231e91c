# SPDX-License-Identifier: Apache-2.0
"""Index of the selected objects of a data set, as flat arrays in memory or in a file.

Only the run-length-coded mask of each object's box is kept. Full COCO therefore takes tens of
megabytes, which forked processes share.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pycocotools import mask as rle

from training.data.cache import store

# Increased when the rules or the arrays change, so that older files are rebuilt.
_VERSION = 3
# Number of unusable annotations to name per rule; the others are only counted.
_NAMED = 10


class SelectedObject(NamedTuple):
    """One object to keep.

    Attributes:
        path: Path of the image, relative to the folder.
        size: (height, width) of the image.
        category: Category to report.
        identity: Name of the annotation.
        box: (top, left, height, width).
        code: Compressed run lengths of the mask within the box.
    """

    path: str
    size: tuple[int, int]
    category: str
    identity: str
    box: tuple[int, int, int, int]
    code: bytes


class Drops:
    """Records which objects were left out, and why.

    Attributes:
        counts: Number of objects by violated rule.
        unusable: Names of the first unusable annotations by fault, for the log.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.unusable: dict[str, list[str]] = {}

    def add_unusable(self, rule: str, name: str) -> None:
        """Counts an unusable annotation; keeps its name if it is among the first."""
        self.counts[rule] += 1
        names = self.unusable.setdefault(rule, [])
        if len(names) < _NAMED:
            names.append(name)

    def add(self, later: Drops) -> None:
        """Adds the record of further objects."""
        self.counts.update(later.counts)
        for rule, names in later.unusable.items():
            kept = self.unusable.setdefault(rule, [])
            kept += names[: _NAMED - len(kept)]


class ObjectIndex:
    """Locations and masks of objects.

    Args:
        arrays: Arrays from :meth:`build`.

    Attributes:
        paths: Paths of the images, relative to their folder.
        names: Names of the categories.
        image: (N,) index into ``paths``.
        category: (N,) index into ``names``.
        box: (N, 4) top, left, height, width.
        size: (N, 2) height, width of the image.
        identities: (N,) names of the objects in their data set.
        dropped: Number of objects left out, by reason.
        unusable: Names of the first unusable annotations, by reason.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = dict(arrays)
        self.paths = arrays["paths"]
        self.names = [str(name) for name in arrays["names"]]
        self.image = arrays["image"]
        self.category = arrays["category"]
        self.box = arrays["box"]
        self.size = arrays["size"]
        self.identities = arrays["identities"]
        self.dropped = Counter(
            dict(zip(map(str, arrays["reasons"]), arrays["drops"].tolist(), strict=True))
        )
        self.unusable: dict[str, list[str]] = {}
        for rule, name in arrays["unusable"].tolist():
            self.unusable.setdefault(rule, []).append(name)
        self._codes = arrays["codes"]
        self._code_ends = arrays["code_ends"]

    def __len__(self) -> int:
        return len(self.image)

    @classmethod
    def build(cls, rows: Iterable[SelectedObject], drops: Drops) -> ObjectIndex:
        """Builds an index.

        Args:
            rows: Selected objects.
            drops: Record of dropped objects, which is filled while ``rows`` is consumed.
        """
        paths: dict[str, int] = {}
        names: dict[str, int] = {}
        image, box, size, category, identities, codes = [], [], [], [], [], []
        for row in rows:
            image.append(paths.setdefault(row.path, len(paths)))
            category.append(names.setdefault(row.category, len(names)))
            box.append(row.box)
            size.append(row.size)
            identities.append(row.identity)
            codes.append(row.code)
        return cls(
            {
                "paths": np.array(list(paths), np.str_),
                "names": np.array(list(names), np.str_),
                "image": np.array(image, np.int32),
                "category": np.array(category, np.int32),
                "box": np.array(box, np.int32).reshape(-1, 4),
                "size": np.array(size, np.int32).reshape(-1, 2),
                "identities": np.array(identities, np.str_),
                "reasons": np.array(list(drops.counts), np.str_),
                "drops": np.array(list(drops.counts.values()), np.int64),
                "unusable": np.array(
                    [(rule, name) for rule, names in drops.unusable.items() for name in names],
                    np.str_,
                ).reshape(-1, 2),
                "codes": np.frombuffer(b"".join(codes), np.uint8),
                "code_ends": np.cumsum([len(code) for code in codes], dtype=np.int64),
            }
        )

    def mask(self, index: int) -> np.ndarray:
        """Decodes the mask of an object within its box, (h, w) bool."""
        start = self._code_ends[index - 1] if index else 0
        counts = self._codes[start : self._code_ends[index]].tobytes()
        height, width = (int(x) for x in self.box[index, 2:])
        return rle.decode({"size": [height, width], "counts": counts}).astype(bool)

    def count_categories(self) -> Counter[str]:
        """Counts the objects by category."""
        return Counter(self.names[c] for c in self.category)

    def save(self, path: Path, origin: str) -> bool:
        """Writes the index, or warns that it cannot; returns whether it was written.

        Args:
            path: File to write.
            origin: Description of everything that the index depends on, see :meth:`load`.
        """
        needed = sum(array.nbytes for array in self._arrays.values())
        arrays = {**self._arrays, "origin": np.array(_digest(origin))}
        return store(path, lambda file: np.savez(file, **arrays), needed)

    @classmethod
    def load(cls, path: Path, origin: str) -> ObjectIndex | None:
        """Reads an index; returns None if there is none with the same ``origin``."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            return cls(arrays) if str(arrays["origin"]) == _digest(origin) else None
        # Missing or not an index; it is rebuilt.
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            return None


def _digest(origin: str) -> str:
    return hashlib.sha256(f"{_VERSION} {origin}".encode()).hexdigest()

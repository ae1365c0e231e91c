"""The objects of a data set that passed, as flat arrays, in memory or in a file.

Only the run-length-coded mask of an object's box is kept. So full COCO needs tens of megabytes,
and a fork of the process shares them.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from pycocotools import mask as rle

from training.data.negatives.quality import Instance
from training.engine.storage import make_folder, write_atomically

# Counts up when the rules or the arrays change, so that older files are made anew.
_VERSION = 2
# Unusable annotations that are named, by rule; the others are counted.
_NAMED = 10

# Path and (height, width) of the image, category to report, the object.
Row = tuple[str, tuple[int, int], str, Instance]


class Drops:
    """What was left out.

    Attributes:
        counts: Number of objects by rule.
        unusable: The first annotations by fault, for the log.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.unusable: dict[str, list[str]] = {}

    def add_unusable(self, rule: str, name: str) -> None:
        """Counts an annotation that cannot be used, and names it if it is among the first."""
        self.counts[rule] += 1
        names = self.unusable.setdefault(rule, [])
        if len(names) < _NAMED:
            names.append(name)


class ObjectIndex:
    """Where the objects are, and their masks.

    Args:
        arrays: As :meth:`build` makes them.

    Attributes:
        paths: Images, relative to their folder.
        names: Categories.
        image: (N,) index into ``paths``.
        category: (N,) index into ``names``.
        box: (N, 4) top, left, height, width.
        size: (N, 2) height, width of the image.
        identities: (N,) names of the objects in their data set.
        dropped: Number of objects by the reason for leaving them out.
        unusable: The first annotations that could not be used, by reason.
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
    def build(cls, rows: Iterable[Row], drops: Drops) -> ObjectIndex:
        """Collects the objects.

        Args:
            rows: What is kept.
            drops: Filled while the rows are drawn.
        """
        paths: dict[str, int] = {}
        names: dict[str, int] = {}
        image, box, size, category, identities, codes = [], [], [], [], [], []
        for path, image_size, name, instance in rows:
            image.append(paths.setdefault(path, len(paths)))
            category.append(names.setdefault(name, len(names)))
            box.append((instance.top, instance.left, *instance.mask.shape))
            size.append(image_size)
            identities.append(instance.identity)
            codes.append(rle.encode(np.asfortranarray(instance.mask, np.uint8))["counts"])
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
        """(h, w) bool mask within the box."""
        start = self._code_ends[index - 1] if index else 0
        counts = self._codes[start : self._code_ends[index]].tobytes()
        height, width = (int(x) for x in self.box[index, 2:])
        return rle.decode({"size": [height, width], "counts": counts}).astype(bool)

    def count_categories(self) -> Counter[str]:
        """Number of objects by category."""
        return Counter(self.names[c] for c in self.category)

    def save(self, path: Path, origin: str) -> None:
        """Writes the index.

        Args:
            path: File to write; folders above it are made.
            origin: Describes everything that it was made from, see :meth:`load`.

        Raises:
            OutputError: The file cannot be written.
        """
        needed = sum(array.nbytes for array in self._arrays.values())
        stamp = np.array(_digest(origin))
        make_folder(path.parent)
        write_atomically(path, lambda file: np.savez(file, origin=stamp, **self._arrays), needed)

    @classmethod
    def load(cls, path: Path, origin: str) -> ObjectIndex | None:
        """Reads an index; None if there is none that was made from the same."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            return cls(arrays) if str(arrays["origin"]) == _digest(origin) else None
        # Missing, or no index at all: it is made anew.
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            return None


def _digest(origin: str) -> str:
    return hashlib.sha256(f"{_VERSION} {origin}".encode()).hexdigest()

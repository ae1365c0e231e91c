"""Objects of known classes cut out of labelled road scenes: decoys for the mixer.

Pasted like the foreign objects, but labelled with their class, they show that an object with a
pasted rim, in an odd place, of a rare kind (a lorry close by) is still known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import cv2
import numpy as np

from training.data.corpora import Corpus
from training.data.negatives.objects import NegativeObject, ObjectSource


class SceneObjects:
    """Connected regions of given classes that lie inside their frame completely.

    Neighbouring objects of one class (parked cars) count as one.

    Args:
        corpora: Labelled frames.
        classes: Class name by trainId, of the classes to cut out.
        min_side: Regions less high or wide than this, in stored pixels, are left out.
        min_fill: Least share of its box that a region covers; what is left of a car behind a
            fence is no car.
    """

    def __init__(
        self,
        corpora: Sequence[Corpus],
        classes: dict[int, str],
        min_side: int = 16,
        min_fill: float = 0.4,
    ) -> None:
        self.corpora = list(corpora)
        self.classes = classes
        rows = [
            (c, position, train_id, *box)
            for c, corpus in enumerate(self.corpora)
            for position, labels in enumerate(corpus.labels)
            for train_id, box in _regions(labels, classes, min_side, min_fill)
        ]
        # corpus, position, trainId, top, left, height, width, a pixel of the region
        self._rows = np.array(rows, np.int32).reshape(-1, 9)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def categories(self) -> list[str]:
        """Category of every object, without cutting it out."""
        return [self.classes[train_id] for train_id in self._rows[:, 2].tolist()]

    def __getitem__(self, index: int) -> NegativeObject:
        if not 0 <= index < len(self):
            raise IndexError(f"object {index} of {len(self)}")
        c, position, train_id, top, left, height, width, y, x = self._rows[index].tolist()
        corpus = self.corpora[c]
        box = (slice(top, top + height), slice(left, left + width))
        same = (corpus.labels[position][box] == train_id).view(np.uint8)
        _, parts = cv2.connectedComponents(same)
        mask = parts == parts[y - top, x - left]
        image = corpus.images[position][box]
        if corpus.aspect:
            size = (max(1, round(width * corpus.squeeze(position))), height)
            image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
            mask = cv2.resize(mask.view(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        return NegativeObject(
            np.ascontiguousarray(image),
            mask,
            self.classes[train_id],
            f"{corpus.name} frame {position}, row {y}, column {x}",
        )

    def describe(self) -> str:
        """Number of objects by class."""
        counts = ", ".join(f"{n} {name}" for name, n in Counter(self.categories).most_common())
        return f"{len(self)} known objects of the training frames: {counts}"


class BalancedObjects:
    """A source in which every category has the same number of objects, by repetition.

    Args:
        sources: Sources with the categories of their objects in order; without any object they
            are left out.
    """

    def __init__(self, sources: Sequence[tuple[ObjectSource, Sequence[str]]]) -> None:
        self.sources = [source for source, _ in sources]
        members: dict[str, list[tuple[int, int]]] = {}
        for s, (_, categories) in enumerate(sources):
            for index, category in enumerate(categories):
                members.setdefault(category, []).append((s, index))
        self._members = [members[name] for name in sorted(members)]

    def __len__(self) -> int:
        return len(self._members) * max(map(len, self._members), default=0)

    def __getitem__(self, index: int) -> NegativeObject:
        if not 0 <= index < len(self):
            raise IndexError(f"object {index} of {len(self)}")
        turn, category = divmod(index, len(self._members))
        found = self._members[category]
        source, position = found[turn % len(found)]
        return self.sources[source][position]

    def describe(self) -> str:
        """The descriptions of all sources."""
        return "\n".join(source.describe() for source in self.sources)


def _regions(
    labels: np.ndarray, classes: dict[int, str], min_side: int, min_fill: float
) -> list[tuple[int, tuple[int, ...]]]:
    """(trainId, (top, left, height, width, y, x)) of every whole region."""
    found = []
    for train_id in classes:
        _, parts, stats, _ = cv2.connectedComponentsWithStats((labels == train_id).view(np.uint8))
        for part in range(1, len(stats)):
            left, top, width, height, area = (int(v) for v in stats[part])
            inside = (
                left > 0
                and top > 0
                and left + width < labels.shape[1]
                and top + height < labels.shape[0]
            )
            if inside and min(width, height) >= min_side and area >= min_fill * width * height:
                first = int(np.flatnonzero(parts[top] == part)[0])
                found.append((train_id, (top, left, height, width, top, first)))
    return found

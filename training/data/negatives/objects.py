# SPDX-License-Identifier: Apache-2.0
"""Objects cut out of images, to be pasted into road scenes as outliers or decoys."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol

import cv2
import numpy as np

from anomaly_seg_ros.errors import ParameterError
from training.data.corpora import Corpus
from training.data.workers import share_of

# Repetitions of the objects with the smallest share, so that the others' can be rounded.
_REPEATS = 100


@dataclass(frozen=True)
class NegativeObject:
    """One object, cropped to its bounding box.

    Attributes:
        image: (h, w, 3) uint8 RGB.
        mask: (h, w) bool, True on the object.
        category: Class name in its data set; for a known object, the target class.
        source: Image and object, such as "coco 000000123456 #789".
    """

    image: np.ndarray = field(repr=False)
    mask: np.ndarray = field(repr=False)
    category: str
    source: str


class ObjectSource(Protocol):
    """Sequence of objects; object ``i`` is a pure function of ``i``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> NegativeObject: ...

    def describe(self) -> str:
        """Describes its content and what was left out, for the log."""
        ...


class NoObjects:
    """No objects, for runs whose outliers come from a flow alone."""

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> NegativeObject:
        raise IndexError(f"object {index} of none")

    def describe(self) -> str:
        """See :class:`ObjectSource`."""
        return "no objects to paste"


class JoinedObjects:
    """Several sources as one, in proportion to their sizes or to weights.

    With weights, objects are repeated, so that an index drawn uniformly finds each source as often
    as its weight says, to within half a percent of it, and all objects of a source equally often.

    Args:
        sources: At least one source, none of them empty.
        weights: Weight of each source, positive; their sum does not matter. None lists every
            object once, so that large sources outweigh small ones.

    Raises:
        ParameterError: A weight is not positive, or there is not one for each source.
    """

    def __init__(
        self, sources: Sequence[ObjectSource], weights: Sequence[float] | None = None
    ) -> None:
        if not sources:
            raise ValueError("no sources to join")
        self.sources = list(sources)
        self._sizes = [len(source) for source in sources]
        repeats = [1] * len(sources)
        if weights is not None:
            if len(weights) != len(sources) or not all(0 < w < math.inf for w in weights):
                raise ParameterError(
                    f"object weights: expected {len(sources)} positive numbers, got {weights}"
                )
            shares = [weight / size for weight, size in zip(weights, self._sizes, strict=True)]
            repeats = [round(_REPEATS * share / min(shares)) for share in shares]
        self._ends = list(accumulate(n * k for n, k in zip(self._sizes, repeats, strict=True)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> NegativeObject:
        if not 0 <= index < len(self):
            raise IndexError(f"object {index} of {len(self)}")
        which = bisect_right(self._ends, index)
        start = self._ends[which - 1] if which else 0
        return self.sources[which][(index - start) % self._sizes[which]]

    def describe(self) -> str:
        """Joins the descriptions of all sources, with their shares."""
        lines = []
        for start, end, source in zip([0, *self._ends], self._ends, self.sources, strict=False):
            lines.append(f"{(end - start) / len(self):.1%} of the draws: {source.describe()}")
        return "\n".join(lines)


class LeastRecentlyUsed:
    """Objects that stay in memory; those unused for longest go first.

    Args:
        limit_mib: Size of pixels and masks in MiB, over all loader processes.

    Attributes:
        kept: Objects in memory, by index.
        used: Their bytes.
    """

    def __init__(self, limit_mib: float) -> None:
        self.limit = limit_mib * 2**20
        self.kept: OrderedDict[int, NegativeObject] = OrderedDict()
        self.used = 0

    def __call__(self, index: int, make: Callable[[int], NegativeObject]) -> NegativeObject:
        """Returns object ``index``, from memory if it is there."""
        if index in self.kept:
            self.kept.move_to_end(index)
            return self.kept[index]
        found = self.kept[index] = make(index)
        self.used += found.image.nbytes + found.mask.nbytes
        while self.used > share_of(self.limit) and self.kept:
            _, oldest = self.kept.popitem(last=False)
            self.used -= oldest.image.nbytes + oldest.mask.nbytes
        return found

    def __getstate__(self) -> dict[str, object]:
        """Leaves out the objects; each worker keeps its own."""
        return {**self.__dict__, "kept": OrderedDict(), "used": 0}


class SceneObjects:
    """Known objects cut out of labelled road scenes, as decoys for the mixer.

    They are pasted like the foreign objects, but labelled with their class. They show that an
    object with pasted edges, in an odd place or of a rare kind (a lorry close by) is still known.
    Objects are connected regions of a class, completely inside their frame. Adjacent objects of
    one class, such as parked cars, count as one.

    Args:
        corpora: Labelled frames, whose indices list the regions of the things.
        classes: Names of the run's classes, by trainId.
        cache_mib: Cache of objects that were cut out, in MiB over all loader processes.
    """

    def __init__(
        self, corpora: Sequence[Corpus], classes: Sequence[str], cache_mib: float = 64.0
    ) -> None:
        self.corpora = list(corpora)
        self.classes = classes
        # Columns: corpus, position, trainId, top, left, height, width, y and x of a region pixel.
        self._rows = np.concatenate(
            [np.insert(c.index.regions, 0, i, axis=1) for i, c in enumerate(self.corpora)]
            or [np.empty((0, 9), np.int32)]
        )
        self._kept = LeastRecentlyUsed(cache_mib)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def categories(self) -> list[str]:
        """Categories of all objects, without cutting them out."""
        return [self.classes[train_id] for train_id in self._rows[:, 2].tolist()]

    def __getitem__(self, index: int) -> NegativeObject:
        if not 0 <= index < len(self):
            raise IndexError(f"object {index} of {len(self)}")
        return self._kept(index, self._cut_out)

    def _cut_out(self, index: int) -> NegativeObject:
        c, position, train_id, top, left, height, width, y, x = self._rows[index].tolist()
        corpus = self.corpora[c]
        image, labels = corpus.load(position)
        box = (slice(top, top + height), slice(left, left + width))
        _, parts = cv2.connectedComponents((labels[box] == train_id).view(np.uint8))
        mask = parts == parts[y - top, x - left]
        # A copy, so that the cache does not hold whole frames.
        image = image[box].copy()
        if corpus.aspect:
            size = (max(1, round(width * corpus.squeeze(position))), height)
            image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
            mask = cv2.resize(mask.view(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        return NegativeObject(
            image,
            mask,
            self.classes[train_id],
            f"{corpus.name} {corpus.frames.name(position)}, row {y}, column {x}",
        )

    def describe(self) -> str:
        """Describes the number of objects by class."""
        counts = ", ".join(f"{n} {name}" for name, n in Counter(self.categories).most_common())
        return f"{len(self)} known objects of the training frames: {counts}"


class BalancedObjects:
    """Source in which every category has the same number of objects, by repetition.

    Args:
        sources: Sources, each with the categories of its objects in order; empty sources are left
            out.
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
        """Joins the descriptions of all sources."""
        return "\n".join(source.describe() for source in self.sources)

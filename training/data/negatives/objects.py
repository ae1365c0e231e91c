"""Objects cut out of images: what is pasted into road scenes as the outlier."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class NegativeObject:
    """One object, cropped to its box.

    Attributes:
        image: (h, w, 3) uint8 RGB.
        mask: (h, w) bool, True on the object.
        category: Name of its class in its data set; the target class of a known object.
        source: Which image and object it is, such as "coco 000000123456 #789".
    """

    image: np.ndarray = field(repr=False)
    mask: np.ndarray = field(repr=False)
    category: str
    source: str


class ObjectSource(Protocol):
    """A sequence of objects; object ``i`` is a pure function of ``i``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> NegativeObject: ...

    def describe(self) -> str:
        """What is in it and what was left out, for the log."""
        ...


class JoinedObjects:
    """Several sources as one, in the order given.

    Args:
        sources: At least one.
    """

    def __init__(self, sources: Sequence[ObjectSource]) -> None:
        if not sources:
            raise ValueError("no sources to join")
        self.sources = list(sources)
        self._ends = list(accumulate(len(source) for source in sources))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> NegativeObject:
        if not 0 <= index < len(self):
            raise IndexError(f"object {index} of {len(self)}")
        which = bisect_right(self._ends, index)
        start = self._ends[which - 1] if which else 0
        return self.sources[which][index - start]

    def describe(self) -> str:
        """The descriptions of all sources."""
        return "\n".join(source.describe() for source in self.sources)

"""Programs that are made for one size of input each, the newest few kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Program = TypeVar("Program")

# A camera has one size; tiles at a frame's edges and small frames add a few more.
_KEPT = 4


class CompiledSizes(Generic[Program]):
    """Makes a program at its first use and forgets the one that was not used for longest.

    Args:
        make: Input shape -> program.
        kept: How many.
    """

    def __init__(self, make: Callable[[tuple[int, ...]], Program], kept: int = _KEPT) -> None:
        self._make = make
        self._kept = kept
        self._programs: OrderedDict[tuple[int, ...], Program] = OrderedDict()

    def clear(self) -> None:
        """Forgets all of them."""
        self._programs.clear()

    def __contains__(self, shape: tuple[int, ...]) -> bool:
        return shape in self._programs

    def __getitem__(self, shape: tuple[int, ...]) -> Program:
        if shape not in self._programs:
            while len(self._programs) >= self._kept:  # first: both may not fit into the memory
                self._programs.popitem(last=False)
            self._programs[shape] = self._make(shape)
        self._programs.move_to_end(shape)
        return self._programs[shape]

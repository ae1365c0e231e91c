# SPDX-License-Identifier: Apache-2.0
"""Pages of counts, 65,536 neighbouring score keys each, in memory and in files.

The keys of a page share their upper 16 bits: sign, exponent and the first seven bits of the
mantissa, which is a bfloat16. A page with few different scores lists them; a full one has a slot
for each, in the narrowest integer that holds its largest count.

In a file, pages hold what does not fit into memory (:class:`Segment`), or the body of a saved
state (:mod:`states`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

KEYS = 1 << 16

_WIDTHS = (np.uint8, np.uint16, np.uint32, np.int64)
# A list takes two bytes for a key and one for its count, a full page one byte a slot. Merging
# lists costs more than adding to slots, so pages switch a little before that saves memory.
_LISTED_AT_MOST = KEYS // 4
# Bytes of a page's Python objects beside its arrays; counted towards the memory limit.
_OVERHEAD = 400


class CountPage:
    """How often each key of one page occurs."""

    __slots__ = ("_counts", "_lows")

    def __init__(self) -> None:
        # None once the page is full: then the position in _counts is the key.
        self._lows: np.ndarray | None = np.empty(0, np.uint16)
        self._counts = np.empty(0, np.uint8)

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return self._counts.nbytes + _OVERHEAD + (0 if self._lows is None else self._lows.nbytes)

    def count(self, lows: np.ndarray) -> None:
        """Counts keys.

        Args:
            lows: (N,) uint16, the keys' lower halves in any order.
        """
        if lows.size > KEYS // 8:
            self._fill()
            self._add_slots(np.bincount(lows, minlength=KEYS))
            return
        # NumPy's stable sort of 16-bit numbers is a radix sort.
        lows = np.sort(lows, kind="stable")
        starts = _starts(lows)
        self.add(lows[starts], np.diff(starts, append=lows.size))

    def add(self, lows: np.ndarray, counts: np.ndarray) -> None:
        """Adds counts.

        Args:
            lows: (N,) uint16, the keys' lower halves, strictly rising.
            counts: (N,) int64, positive.
        """
        if self._lows is not None:
            lows, counts = _merged(self._lows, self._counts, lows, counts)
            if lows.size <= _LISTED_AT_MOST:
                self._lows, self._counts = lows, narrowed(counts)
                return
            self._lows, self._counts = None, np.zeros(KEYS, np.uint8)
        counts = self._counts[lows] + counts
        width = smallest_width(int(counts.max(initial=0)))
        if np.dtype(width).itemsize > self._counts.itemsize:
            self._counts = self._counts.astype(width)
        self._counts[lows] = counts

    def entries(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns ``(lows (N,) uint16 strictly rising, counts (N,) int64 positive)``."""
        if self._lows is not None:
            return self._lows, self._counts.astype(np.int64)
        lows = np.flatnonzero(self._counts)
        return lows.astype(np.uint16), self._counts[lows].astype(np.int64)

    def below_and_equal(self, lows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number of the page's scores below each of ``lows``, and equal to it, (N,) int64.

        Args:
            lows: (N,) uint16.
        """
        upto = np.cumsum(self._counts, dtype=np.int64)
        if self._lows is None:
            equal = self._counts[lows].astype(np.int64)
            return upto[lows] - equal, equal
        upto = np.concatenate([[0], upto])
        below = upto[np.searchsorted(self._lows, lows, side="left")]
        return below, upto[np.searchsorted(self._lows, lows, side="right")] - below

    def _fill(self) -> None:
        """Turns the lists into slots."""
        if self._lows is not None:
            slots = np.zeros(KEYS, self._counts.dtype)
            slots[self._lows] = self._counts
            self._lows, self._counts = None, slots

    def _add_slots(self, slots: np.ndarray) -> None:
        """Adds (65536,) counts to a full page."""
        slots = narrowed(slots)
        # The sum of two n-bit numbers has at most n + 1 bits.
        twice = np.promote_types(slots.dtype, self._counts.dtype)
        wider = np.dtype(_WIDTHS[min(_WIDTHS.index(twice.type) + 1, len(_WIDTHS) - 1)])
        total = np.add(self._counts, slots, dtype=wider)
        self._counts = narrowed(total)


@dataclass(frozen=True)
class PageRecord:
    """A page as written to a file.

    Attributes:
        slots: True if ``data`` holds one count for each of the 65,536 keys, False if it holds the
            lower halves (uint16) of the keys that occur, then their counts.
        width: Bytes a count: 1, 2, 4 or 8.
        entries: Number of different keys that occur.
        data: Little-endian bytes.
    """

    slots: bool
    width: int
    entries: int
    data: bytes

    @classmethod
    def pack(cls, lows: np.ndarray, counts: np.ndarray) -> PageRecord:
        """Packs what :meth:`CountPage.entries` returns; equal entries give equal bytes."""
        counts = narrowed(counts)
        width = counts.itemsize
        if slots := lows.size * (2 + width) > KEYS * width:
            page = np.zeros(KEYS, counts.dtype)
            page[lows] = counts
            data = _little(page).tobytes()
        else:
            data = _little(lows).tobytes() + _little(counts).tobytes()
        return cls(slots, width, lows.size, data)

    def unpack(self) -> tuple[np.ndarray, np.ndarray]:
        """Reverses :meth:`pack`.

        Raises:
            ValueError: The data is not such a page.
        """
        if len(self.data) != packed_bytes(self.slots, self.width, self.entries):
            raise ValueError("a page of counts is damaged")
        dtype = np.dtype(f"<{'i' if self.width == 8 else 'u'}{self.width}")
        if self.slots:
            page = np.frombuffer(self.data, dtype)
            lows = np.flatnonzero(page).astype(np.uint16)
            counts = page[lows].astype(np.int64)
        else:
            lows = np.frombuffer(self.data, "<u2", self.entries).astype(np.uint16)
            counts = np.frombuffer(self.data, dtype, offset=2 * self.entries).astype(np.int64)
        rising = bool((lows[1:] > lows[:-1]).all())
        if lows.size != self.entries or not rising or (counts < 1).any():
            raise ValueError("a page of counts is damaged")
        return lows, counts


def packed_bytes(slots: bool, width: int, entries: int) -> int:
    """Length of the data of such a :class:`PageRecord`."""
    return KEYS * width if slots else entries * (2 + width)


def smallest_width(largest: int) -> type[np.integer]:
    """The narrowest of the integer types in use that holds a count."""
    return next(kind for kind in _WIDTHS if largest <= np.iinfo(kind).max)


def narrowed(counts: np.ndarray) -> np.ndarray:
    """Counts in the narrowest type that holds them all."""
    return counts.astype(smallest_width(int(counts.max(initial=0))))


def _merged(
    lows: np.ndarray, counts: np.ndarray, more_lows: np.ndarray, more_counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The sum of two lists of counts; keys strictly rising in both and in the result."""
    if not lows.size:
        return more_lows, more_counts
    union = np.sort(np.concatenate([lows, more_lows]), kind="stable")
    union = union[_starts(union)]
    total = np.zeros(union.size, np.int64)
    total[np.searchsorted(union, lows)] = counts
    total[np.searchsorted(union, more_lows)] += more_counts
    return union, total


def _starts(rising: np.ndarray) -> np.ndarray:
    """Where each distinct value of a rising array starts."""
    new = np.ones(rising.size, np.bool_)
    np.not_equal(rising[1:], rising[:-1], out=new[1:])
    return np.flatnonzero(new)


def _little(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


INDEX = np.dtype([("page", "<u2"), ("slots", "u1"), ("width", "u1"), ("entries", "<u4")])
"""One row a page: the upper half of its keys, and the attributes of its :class:`PageRecord`."""

IndexRow = tuple[int, int, int, int]
"""A row of the index, from its ``tolist()``."""

Page = tuple[int, np.ndarray, np.ndarray]
"""The upper half of a page's keys, and what :meth:`CountPage.entries` returns."""


def write_pages(pages: Iterable[Page], file: IO[bytes]) -> np.ndarray:
    """Writes pages one after another and returns their index."""
    rows = []
    for page, lows, counts in pages:
        record = PageRecord.pack(lows, counts)
        file.write(record.data)
        rows.append((page, record.slots, record.width, record.entries))
    return np.array(rows, INDEX)


def read_page(row: IndexRow, file: IO[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Reads the page of one index row from the current position of a file.

    Raises:
        ValueError: The file ends early, or the page is damaged.
    """
    _, slots, width, entries = row
    return PageRecord(bool(slots), width, entries, file.read(page_bytes(row))).unpack()


def page_bytes(row: IndexRow) -> int:
    """Length in the file of an index row's page.

    Raises:
        ValueError: The row is not that of a page.
    """
    _, slots, width, entries = row
    if width not in (1, 2, 4, 8) or not 1 <= entries <= KEYS:
        raise ValueError("a page of counts is damaged")
    return packed_bytes(bool(slots), width, entries)


class Segment:
    """A temporary file of pages, read a page at a time.

    Args:
        path: The file to write.
        pages: Pages in rising order of their keys.
    """

    def __init__(self, path: Path, pages: Iterable[Page]) -> None:
        self.path = path
        with path.open("wb") as file:
            rows: list[IndexRow] = write_pages(pages, file).tolist()
        ends = itertools.accumulate((page_bytes(row) for row in rows), initial=0)
        self._places = {row[0]: (start, row) for start, row in zip(ends, rows, strict=False)}
        # Kept open: a walk over all pages would otherwise open it thousands of times.
        self._file = path.open("rb")

    def remove(self) -> None:
        """Deletes the file."""
        self._file.close()
        self.path.unlink()

    @property
    def pages(self) -> set[int]:
        """Upper halves of the keys of the pages in the file."""
        return set(self._places)

    def entries(self, page: int) -> tuple[np.ndarray, np.ndarray] | None:
        """The counts of a page, or None if it is not in the file."""
        if page not in self._places:
            return None
        start, row = self._places[page]
        self._file.seek(start)
        return read_page(row, self._file)

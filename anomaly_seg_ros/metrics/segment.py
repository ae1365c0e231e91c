"""Pages of counts in a file: what does not fit into memory, and the body of a saved state."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from anomaly_seg_ros.metrics.count_page import KEYS, PageRecord, packed_bytes

INDEX = np.dtype([("page", "<u2"), ("slots", "u1"), ("width", "u1"), ("entries", "<u4")])
"""One row a page: its upper key half, and the attributes of its :class:`PageRecord`."""

IndexRow = tuple[int, int, int, int]
"""A row of the index, from its ``tolist()``."""

Page = tuple[int, np.ndarray, np.ndarray]
"""A page's upper key half, and what :meth:`CountPage.entries` returns."""


def write_pages(pages: Iterable[Page], file: BinaryIO) -> np.ndarray:
    """Writes pages one after another and returns their index."""
    rows = []
    for page, lows, counts in pages:
        record = PageRecord.pack(lows, counts)
        file.write(record.data)
        rows.append((page, record.slots, record.width, record.entries))
    return np.array(rows, INDEX)


def read_page(row: IndexRow, file: BinaryIO) -> tuple[np.ndarray, np.ndarray]:
    """Reads the page of one index row from where the file stands.

    Raises:
        ValueError: The file ends early, or the page is damaged.
    """
    _, slots, width, entries = row
    return PageRecord(bool(slots), width, entries, file.read(page_bytes(row))).unpack()


def page_bytes(row: IndexRow) -> int:
    """Length of the page of an index row in the file.

    Raises:
        ValueError: There is no such page.
    """
    _, slots, width, entries = row
    if width not in (1, 2, 4, 8) or not 1 <= entries <= KEYS:
        raise ValueError("a page of counts is damaged")
    return packed_bytes(bool(slots), width, entries)


class Segment:
    """A temporary file of pages, read a page at a time.

    Args:
        path: Where to write it.
        pages: With rising upper key halves.
    """

    def __init__(self, path: Path, pages: Iterable[Page]) -> None:
        self.path = path
        with path.open("wb") as file:
            rows: list[IndexRow] = write_pages(pages, file).tolist()
        ends = itertools.accumulate((page_bytes(row) for row in rows), initial=0)
        self._places = {row[0]: (start, row) for start, row in zip(ends, rows, strict=False)}
        # Open for good: a walk over all pages would otherwise open it thousands of times.
        self._file = path.open("rb")

    def remove(self) -> None:
        """Deletes the file."""
        self._file.close()
        self.path.unlink()

    @property
    def pages(self) -> set[int]:
        """Upper key halves of the pages in the file."""
        return set(self._places)

    def entries(self, page: int) -> tuple[np.ndarray, np.ndarray] | None:
        """The counts of a page, or None where the file has none."""
        if page not in self._places:
            return None
        start, row = self._places[page]
        self._file.seek(start)
        return read_page(row, self._file)

# SPDX-License-Identifier: Apache-2.0
"""How often each float32 score occurs: exact, one pass, in bounded memory.

Once its sign is flipped, the bits of an IEEE 754 number order like the number itself. So each
float32 score is one of 2^32 integers, its key: counting keys is counting scores, without bins and
without error.

Scores come in any order and any number, in sorted arrays such as one a frame. A batch of them is
cut at the borders of the pages (:mod:`count_pages`) and counted a page at a time. Pages beyond the
memory limit go to temporary files, which are merged a page at a time, so that

- memory is at most the limit, plus 8 bytes for each key of a batch (2^25 keys, fewer with a
  small limit) and of one array, plus a few pages, whatever the number of scores;
- disk is at most eight times what all pages together take, of which there are 65,536 of 64 KiB
  (256 KiB with counts in the millions).

Scores of a network span some ten powers of two: 1,300 pages, 84 MB, however many frames.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from anomaly_seg_ros.errors import OutputError
from anomaly_seg_ros.metrics.count_pages import KEYS, CountPage, Page, Segment

_SIGN = np.uint32(0x80000000)


def to_keys(scores: np.ndarray) -> np.ndarray:
    """Maps scores to keys of the same order; 0.0 and -0.0 share one.

    Args:
        scores: 1-D float32. NaN has no order: it gets a key beyond one of the infinities.

    Returns:
        (N,) uint32.
    """
    # Adding zero turns -0.0 into 0.0, and makes the copy that is changed in place below.
    keys = (scores + np.float32(0)).view(np.uint32)
    # All ones for negative scores, whose bits fall as they rise.
    flip = (keys.view(np.int32) >> 31).view(np.uint32)
    flip |= _SIGN
    keys ^= flip
    return keys


def from_keys(keys: np.ndarray) -> np.ndarray:
    """The float32 scores of uint32 keys, of the same shape."""
    keys = np.asarray(keys, np.uint32)
    return np.where(keys & _SIGN, keys ^ _SIGN, ~keys).view(np.float32)


def page_keys(page: int, lows: np.ndarray) -> np.ndarray:
    """The (N,) uint32 keys of a page, from their upper half and (N,) uint16 lower halves."""
    return np.uint32(page << 16) + lows.astype(np.uint32)


def first_key_at_least(threshold: float) -> int:
    """The lowest key whose score is >= a threshold of any precision."""
    with np.errstate(over="ignore"):
        rounded = np.float32(threshold)
    if float(rounded) < threshold:
        rounded = np.nextafter(rounded, np.float32(np.inf))
    return int(to_keys(np.array([rounded], np.float32))[0])


LOWEST_KEY = int(to_keys(np.array([np.finfo(np.float32).min], np.float32))[0])
HIGHEST_KEY = int(to_keys(np.array([np.finfo(np.float32).max], np.float32))[0])
"""Keys of the finite scores; any key below or above is that of an infinity or NaN."""


DEFAULT_MEMORY_LIMIT = 192 << 20

_BATCH = 1 << 25
# More arrays than this are sorted into one, which is faster than cutting each at every page.
_MAX_ARRAYS = 32
# More files than this are merged into one.
_MAX_SEGMENTS = 8


class ExactCounts:
    """A histogram with one bin for each float32 number.

    Args:
        memory_limit: Bytes that the pages may take before they are written to files.
        spill_folder: Folder of those files; the system's temporary folder by default.
    """

    def __init__(
        self, memory_limit: int = DEFAULT_MEMORY_LIMIT, spill_folder: str | Path | None = None
    ) -> None:
        self._memory_limit = memory_limit
        self._spill_folder = spill_folder
        self._batch = max(1 << 10, min(_BATCH, memory_limit // 4))
        self._waiting: list[np.ndarray] = []
        self._waiting_keys = 0
        self._pages: dict[int, CountPage] = {}
        self._bytes = 0
        self._segments: list[Segment] = []
        self._files: tempfile.TemporaryDirectory | None = None
        self._written = 0
        self._totals = np.zeros(KEYS, np.int64)

    def add(self, keys: np.ndarray) -> None:
        """Counts keys.

        Args:
            keys: (N,) uint32 from :func:`to_keys`, rising; kept for a while and not changed.

        Raises:
            OutputError: The memory limit is reached and a temporary file cannot be written.
        """
        if keys.size:
            self._waiting.append(keys)
            self._waiting_keys += keys.size
        if self._waiting_keys >= self._batch:
            self._count_waiting()

    def add_page(self, page: int, lows: np.ndarray, counts: np.ndarray) -> None:
        """Adds counts of one page.

        Args:
            page: The upper half of the keys.
            lows: (N,) uint16, the lower halves of the keys, strictly rising.
            counts: (N,) int64, positive.
        """
        with self._changing(page) as here:
            here.add(lows, counts)
            self._totals[page] += counts.sum()

    def merge(self, other: ExactCounts) -> None:
        """Adds the counts of another histogram, which is not changed."""
        for page, lows, counts in other.all_entries():
            self.add_page(page, lows, counts)

    @property
    def totals(self) -> np.ndarray:
        """(65536,) int64, number of scores in each page; do not change it."""
        self._count_waiting()
        return self._totals

    @property
    def total(self) -> int:
        """Number of scores."""
        return int(self.totals.sum())

    def pages(self) -> np.ndarray:
        """Upper halves of the keys of the pages that are not empty, rising."""
        return np.flatnonzero(self.totals)

    def page(self, page: int) -> CountPage:
        """The counts of a page; do not change it."""
        self._count_waiting()
        parts = [found for s in self._segments if (found := s.entries(page)) is not None]
        here = self._pages.get(page)
        if here is not None and not parts:
            return here
        total = CountPage()
        for part in [here.entries(), *parts] if here is not None else parts:
            total.add(*part)
        return total

    def entries(self, page: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns a page as ``(lows (N,) uint16 rising, counts (N,) int64 positive)``."""
        return self.page(page).entries()

    def all_entries(self) -> Iterator[Page]:
        """Yields all pages, rising."""
        for page in self.pages().tolist():
            yield page, *self.entries(page)

    def below(self, keys: np.ndarray) -> np.ndarray:
        """Number of scores with a key below each of ``keys``.

        Args:
            keys: (N,) integers from 0 to 2^32.

        Returns:
            (N,) int64.
        """
        keys = np.asarray(keys, np.int64)
        pages = np.minimum(keys >> 16, KEYS - 1)
        counted = (np.cumsum(self.totals) - self.totals)[pages]
        for page in np.unique(pages).tolist():
            here = pages == page
            lows, counts = self.entries(page)
            upto = np.concatenate([[0], np.cumsum(counts)])
            counted[here] += upto[np.searchsorted(lows, keys[here] - (page << 16))]
        return counted

    def key_at(self, rank: int) -> int:
        """Returns the key of the score with this rank among all; 0 is the lowest."""
        upto = np.cumsum(self.totals)
        page = int(np.searchsorted(upto, rank, side="right"))
        lows, counts = self.entries(page)
        within = rank - int(upto[page] - self.totals[page])
        place = int(np.searchsorted(np.cumsum(counts), within, side="right"))
        return (page << 16) + int(lows[place])

    def to_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Everything that was counted, 12 bytes for each distinct score.

        Returns:
            ``(keys, occurrences)``: (N,) uint32, rising, and (N,) int64.
        """
        keys, occurrences = [np.empty(0, np.uint32)], [np.empty(0, np.int64)]
        for page, lows, counts in self.all_entries():
            keys.append(page_keys(page, lows))
            occurrences.append(counts)
        return np.concatenate(keys), np.concatenate(occurrences)

    def add_arrays(self, keys: np.ndarray, occurrences: np.ndarray) -> None:
        """Adds what :meth:`to_arrays` returned."""
        pages, starts = np.unique(keys >> np.uint32(16), return_index=True)
        ends = np.append(starts, keys.size)[1:]
        for page, start, end in zip(pages.tolist(), starts, ends, strict=True):
            lows = keys[start:end].astype(np.uint16)  # the cast keeps the lower half
            self.add_page(page, lows, occurrences[start:end].astype(np.int64))

    def _count_waiting(self) -> None:
        if not self._waiting:
            return
        arrays, self._waiting, self._waiting_keys = self._waiting, [], 0
        if len(arrays) > _MAX_ARRAYS:
            arrays = [np.concatenate(arrays)]
            arrays[0].sort()
        first = min(int(keys[0]) for keys in arrays) >> 16
        last = max(int(keys[-1]) for keys in arrays) >> 16
        starts = (np.arange(first, last + 1) << 16).astype(np.uint32)
        cuts = np.stack([np.append(np.searchsorted(keys, starts), keys.size) for keys in arrays])
        sizes = np.diff(cuts).sum(0)
        for place in np.flatnonzero(sizes).tolist():
            pieces = [
                keys[start:end]
                for keys, (start, end) in zip(
                    arrays, cuts[:, place : place + 2].tolist(), strict=True
                )
                if end > start
            ]
            with self._changing(first + place) as page:
                # The cast keeps the lower half of each key.
                page.count(np.concatenate(pieces, dtype=np.uint16, casting="unsafe"))
                self._totals[first + place] += sizes[place]

    @contextmanager
    def _changing(self, page: int) -> Iterator[CountPage]:
        """Gives a page to add to; keeps track of memory and stays within the limit."""
        before = self._pages[page].nbytes if page in self._pages else 0
        here = self._pages.setdefault(page, CountPage())
        yield here
        self._bytes += here.nbytes - before
        if self._bytes > self._memory_limit:
            self._spill()

    def _spill(self) -> None:
        """Moves all pages to a file; merges the files once there are many."""
        pages = self._pages
        self._segments.append(
            self._write((page, *pages[page].entries()) for page in sorted(pages))
        )
        self._pages, self._bytes = {}, 0
        if len(self._segments) > _MAX_SEGMENTS:
            old = self._segments
            self._segments = [self._write(_merged_pages(old))]
            for segment in old:
                segment.remove()

    def _write(self, pages: Iterator[Page]) -> Segment:
        """Writes a temporary file.

        Raises:
            OutputError: It cannot be written.
        """
        folder = self._spill_folder or tempfile.gettempdir()
        try:
            if self._files is None:
                self._files = tempfile.TemporaryDirectory(prefix="scores-", dir=folder)
            self._written += 1
            return Segment(Path(self._files.name) / f"{self._written}.counts", pages)
        except OSError as error:
            raise OutputError(
                f"cannot write counts of scores to {folder}: {error.strerror or error}"
            ) from error


def _merged_pages(segments: list[Segment]) -> Iterator[Page]:
    """The sums of the pages of several files, rising."""
    for page in sorted(set().union(*(segment.pages for segment in segments))):
        total = CountPage()
        for segment in segments:
            if (found := segment.entries(page)) is not None:
                total.add(*found)
        yield page, *total.entries()

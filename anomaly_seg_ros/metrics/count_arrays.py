"""Exact counts as two plain arrays, to be saved or sent together with other numbers."""

from __future__ import annotations

import numpy as np

from anomaly_seg_ros.metrics.exact_counts import ExactCounts


def to_arrays(counts: ExactCounts) -> tuple[np.ndarray, np.ndarray]:
    """All that was counted, 12 bytes for each different score.

    Returns:
        ``(keys, occurrences)``: (N,) uint32 keys of :mod:`score_keys`, rising, and (N,) int64.
    """
    keys, occurrences = [np.empty(0, np.uint32)], [np.empty(0, np.int64)]
    for page, lows, numbers in counts.all_entries():
        keys.append(np.uint32(page << 16) + lows.astype(np.uint32))
        occurrences.append(numbers)
    return np.concatenate(keys), np.concatenate(occurrences)


def add_arrays(counts: ExactCounts, keys: np.ndarray, occurrences: np.ndarray) -> None:
    """Adds what :func:`to_arrays` returned."""
    pages, starts = np.unique(keys >> np.uint32(16), return_index=True)
    ends = np.append(starts, keys.size)[1:]
    for page, start, end in zip(pages.tolist(), starts, ends, strict=True):
        lows = keys[start:end].astype(np.uint16)  # the cast keeps the lower half
        counts.add_page(page, lows, occurrences[start:end].astype(np.int64))

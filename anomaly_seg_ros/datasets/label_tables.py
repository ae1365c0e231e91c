# SPDX-License-Identifier: Apache-2.0
"""How stored label values become trainIds and anomaly masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from anomaly_seg_ros.labels import IGNORE_INDEX, INVALID_ID


def lookup_table(mapping: Mapping[int, int], ignored: Iterable[int] | None = None) -> np.ndarray:
    """A (256,) uint8 table for ``table[label]``.

    Args:
        mapping: Stored label -> new label.
        ignored: Stored labels that become 255; all others are then invalid, and reading one is an
            error. None ignores all labels that the mapping does not name.
    """
    table = np.full(256, IGNORE_INDEX if ignored is None else INVALID_ID, np.uint8)
    table[list(ignored or ())] = IGNORE_INDEX
    for source, target in mapping.items():
        table[source] = target
    return table


def anomaly_table(
    known: Iterable[int], unknown: Iterable[int], ignored: Iterable[int] | None = None
) -> np.ndarray:
    """A (256,) uint8 table from stored labels to 0 known, 1 anomaly, 255 ignore.

    Args:
        known: Stored labels that become 0.
        unknown: Stored labels that become 1.
        ignored: Stored labels that become 255; all others are then invalid, and reading one is an
            error. None ignores all labels that are neither known nor unknown.
    """
    table = np.full(256, IGNORE_INDEX if ignored is None else INVALID_ID, np.uint8)
    table[list(ignored or ())] = IGNORE_INDEX
    table[list(known)] = 0
    table[list(unknown)] = 1
    return table

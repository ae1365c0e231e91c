"""Counts survive the way through plain arrays."""

from __future__ import annotations

import numpy as np
import pytest

from anomaly_seg_ros.metrics.count_arrays import add_arrays, to_arrays
from anomaly_seg_ros.metrics.exact_counts import ExactCounts
from anomaly_seg_ros.metrics.score_keys import to_keys


def counts_of(scores: np.ndarray) -> ExactCounts:
    counts = ExactCounts()
    counts.add(np.sort(to_keys(scores)))
    return counts


@pytest.mark.parametrize("size", [0, 1, 20_000])
def test_arrays_list_each_key_and_how_often_it_occurs(size: int) -> None:
    scores = np.random.default_rng(1).normal(size=size).astype(np.float16).astype(np.float32)
    keys, occurrences = to_arrays(counts_of(scores))
    expected = np.unique(to_keys(scores), return_counts=True)
    np.testing.assert_array_equal(keys, expected[0])
    np.testing.assert_array_equal(occurrences, expected[1])
    assert (keys.dtype, occurrences.dtype) == (np.uint32, np.int64)


def test_adding_arrays_adds_the_counts() -> None:
    rng = np.random.default_rng(2)
    first, second = (rng.normal(size=5000).astype(np.float32) for _ in range(2))
    second[:100] = first[:100]
    total = counts_of(first)
    add_arrays(total, *to_arrays(counts_of(second)))
    add_arrays(total, *to_arrays(ExactCounts()))
    for got, expected in zip(
        to_arrays(total), to_arrays(counts_of(np.r_[first, second])), strict=True
    ):
        np.testing.assert_array_equal(got, expected)

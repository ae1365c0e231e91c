# SPDX-License-Identifier: Apache-2.0
"""Exact counting of float32 scores, in memory and beyond it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from anomaly_seg_ros.errors import OutputError
from anomaly_seg_ros.metrics import exact_counts
from anomaly_seg_ros.metrics.count_pages import CountPage, PageRecord
from anomaly_seg_ros.metrics.exact_counts import (
    HIGHEST_KEY,
    LOWEST_KEY,
    ExactCounts,
    first_key_at_least,
    from_keys,
    to_keys,
)

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(hnp.arrays(np.float32, st.integers(1, 40), elements=finite))
def test_keys_order_like_scores_and_lead_back(scores: np.ndarray) -> None:
    keys = to_keys(scores)
    assert keys.dtype == np.uint32
    np.testing.assert_array_equal(from_keys(keys), scores)
    np.testing.assert_array_equal(
        np.sign(np.subtract.outer(scores, scores, dtype=np.float64)),
        np.sign(np.subtract.outer(keys.astype(np.int64), keys)),
    )


def test_keys_of_both_zeros_are_one_and_infinities_lie_outside() -> None:
    zeros = to_keys(np.array([0.0, -0.0], np.float32))
    assert zeros[0] == zeros[1]
    odd = to_keys(np.array([-np.inf, np.inf, np.nan, -np.nan], np.float32)).astype(np.int64)
    assert ((odd < LOWEST_KEY) | (odd > HIGHEST_KEY)).all()


def test_a_threshold_between_two_float32_numbers_rounds_up() -> None:
    above = float(np.nextafter(np.float32(0.1), np.float32(1)))
    assert from_keys(np.array([first_key_at_least(0.1)])) >= 0.1
    assert from_keys(np.array([first_key_at_least(above)])) == np.float32(above)
    halfway = (float(np.float32(0.1)) + above) / 2
    assert from_keys(np.array([first_key_at_least(halfway)])) == np.float32(above)


def collected(values: np.ndarray, pieces: int = 1, **options: object) -> ExactCounts:
    counts = ExactCounts(**options)
    for piece in np.array_split(values, pieces):
        counts.add(np.sort(to_keys(piece.astype(np.float32))))
    return counts


def as_counter(counts: ExactCounts) -> Counter:
    keys, occurrences = counts.to_arrays()
    return Counter(dict(zip(from_keys(keys).tolist(), occurrences.tolist(), strict=True)))


def mixture(size: int, seed: int = 0) -> np.ndarray:
    """Scores with many ties, near neighbours (one page), strays and both signs."""
    rng = np.random.default_rng(seed)
    kinds = [
        rng.normal(size=size),
        rng.integers(-3, 4, size),
        1 + rng.random(size) * 2.0**-8,
        10.0 ** rng.uniform(-30, 30, size) * rng.choice([-1, 1], size),
    ]
    return rng.permutation(np.concatenate(kinds)).astype(np.float32)


@pytest.mark.parametrize("limit", [1 << 30, 100_000, 1])
@pytest.mark.parametrize("pieces", [1, 7, 100])
def test_counts_every_score_whatever_the_memory(limit: int, pieces: int) -> None:
    values = mixture(5000 if limit > 1 else 300)
    counts = collected(values, pieces, memory_limit=limit)
    assert as_counter(counts) == Counter(values.tolist())
    assert counts.total == values.size


def test_ranks_and_counts_below() -> None:
    values = mixture(5000)
    counts = collected(values, 3, memory_limit=300_000)
    rising = np.sort(values)
    for rank in (0, 1, 777, 10_000, values.size - 1):
        assert from_keys(np.array([counts.key_at(rank)])) == rising[rank]
    asked = np.r_[rising[::500], np.float32([-1e38, 0.5, 1.0, 3e38])]
    expected = np.searchsorted(rising, asked, side="left")
    np.testing.assert_array_equal(counts.below(to_keys(asked)), expected)
    np.testing.assert_array_equal(counts.below(np.array([0, 1 << 32])), [0, values.size])


def test_spills_within_the_limit_and_cleans_up(tmp_path: Path) -> None:
    values = mixture(10_000)
    limit = 40_000
    counts = collected(values, 40, memory_limit=limit, spill_folder=tmp_path)
    assert as_counter(counts) == Counter(values.tolist())
    assert counts._bytes <= limit
    files = list(tmp_path.rglob("*.counts"))
    assert 1 <= len(files) <= exact_counts._MAX_SEGMENTS
    assert counts._written > exact_counts._MAX_SEGMENTS  # so that files were merged, too
    del counts
    assert not list(tmp_path.rglob("*.counts"))


def test_a_spill_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nowhere"):
        collected(mixture(2000), memory_limit=1000, spill_folder=tmp_path / "nowhere").pages()


@pytest.mark.parametrize("size", [0, 1, 20_000])
def test_arrays_list_each_key_and_how_often_it_occurs(size: int) -> None:
    scores = np.random.default_rng(1).normal(size=size).astype(np.float16).astype(np.float32)
    keys, occurrences = collected(scores).to_arrays()
    expected = np.unique(to_keys(scores), return_counts=True)
    np.testing.assert_array_equal(keys, expected[0])
    np.testing.assert_array_equal(occurrences, expected[1])
    assert (keys.dtype, occurrences.dtype) == (np.uint32, np.int64)


def test_adding_arrays_adds_the_counts() -> None:
    first, second = mixture(2000, 1), mixture(2000, 2)
    second[:100] = first[:100]
    total = collected(first)
    total.add_arrays(*collected(second).to_arrays())
    total.add_arrays(*ExactCounts().to_arrays())
    assert as_counter(total) == Counter(first.tolist()) + Counter(second.tolist())


def test_merging_adds_and_leaves_the_other_alone() -> None:
    one, two = mixture(3000, 1), mixture(3000, 2)
    first = collected(one, 2, memory_limit=50_000)
    second = collected(two, 2)
    first.merge(second)
    assert as_counter(first) == Counter(one.tolist()) + Counter(two.tolist())
    assert as_counter(second) == Counter(two.tolist())
    second.merge(second)
    assert as_counter(second) == Counter(two.tolist()) + Counter(two.tolist())


@given(
    st.lists(
        st.dictionaries(st.integers(0, 65535), st.integers(1, 2**40), min_size=1, max_size=30),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=60, deadline=None)
def test_a_page_holds_any_counts(additions: list[dict[int, int]]) -> None:
    page, expected = CountPage(), Counter()
    for addition in additions:
        lows = np.array(sorted(addition), np.uint16)
        page.add(lows, np.array([addition[low] for low in lows.tolist()], np.int64))
        expected.update(addition)
    lows, counts = page.entries()
    assert dict(zip(lows.tolist(), counts.tolist(), strict=True)) == expected
    record = PageRecord.pack(lows, counts)
    for array, again in zip((lows, counts), record.unpack(), strict=True):
        np.testing.assert_array_equal(again, array)


def test_a_page_of_slots_grows_wider() -> None:
    rng = np.random.default_rng(0)
    page, expected = CountPage(), np.zeros(65536, np.int64)
    for size in (100, 20_000, 50_000, 400_000, 50):
        # Half of the keys are one, which soon needs more than a byte, then more than two.
        lows = np.where(rng.random(size) < 0.5, 7, rng.integers(0, 65536, size)).astype(np.uint16)
        page.count(lows)
        np.add.at(expected, lows, 1)
    page.add(np.array([7, 9], np.uint16), np.array([2**33, 1]))
    expected[7] += 2**33
    expected[9] += 1
    lows, counts = page.entries()
    np.testing.assert_array_equal(lows, np.flatnonzero(expected))
    np.testing.assert_array_equal(counts, expected[lows])
    below, equal = page.below_and_equal(np.array([0, 7, 9, 65535], np.uint16))
    np.testing.assert_array_equal(equal, expected[[0, 7, 9, 65535]])
    np.testing.assert_array_equal(below, (np.cumsum(expected) - expected)[[0, 7, 9, 65535]])
    again = PageRecord.pack(lows, counts).unpack()
    np.testing.assert_array_equal(again[1], counts)


def test_a_damaged_page_is_refused() -> None:
    record = PageRecord.pack(np.array([1, 5], np.uint16), np.array([3, 4]))
    short = PageRecord(record.slots, record.width, record.entries, record.data[:-1])
    falling = PageRecord(False, 1, 2, bytes([5, 0, 1, 0, 3, 4]))
    nothing = PageRecord(False, 1, 2, bytes([1, 0, 5, 0, 3, 0]))
    for damaged in (short, falling, nothing):
        with pytest.raises(ValueError, match="damaged"):
            damaged.unpack()

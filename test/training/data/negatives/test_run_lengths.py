# SPDX-License-Identifier: Apache-2.0
"""Masks as run lengths, against pycocotools' decoder of whole images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn
from pycocotools import mask as rle

from training.data.negatives.run_lengths import RunLengths

# pycocotools 2.0.11 under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

masks = stn.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def boxes(size: tuple[int, int], seed: int, count: int) -> list[tuple[int, int, int, int]]:
    rng = np.random.default_rng(seed)
    first = [rng.integers(0, n, count) for n in size]
    last = [rng.integers(a, n) + 1 for a, n in zip(first, size, strict=True)]
    return np.stack([*first, *last], 1).tolist()


@given(mask=masks, seed=st.integers(0, 1000))
@settings(max_examples=300, deadline=None)
def test_parts_of_any_mask(mask: np.ndarray, seed: int) -> None:
    found = RunLengths.from_mask(mask)
    assert found.size == mask.shape
    assert found.area == mask.sum()
    for top, left, bottom, right in [(0, 0, *mask.shape), *boxes(mask.shape, seed, 5)]:
        part = found.cut((top, left, bottom, right))
        assert part.dtype == bool
        np.testing.assert_array_equal(part, mask[top:bottom, left:right])


@given(mask=masks)
@settings(max_examples=200, deadline=None)
def test_the_box_is_tight(mask: np.ndarray) -> None:
    top, left, bottom, right = RunLengths.from_mask(mask).box
    inside = np.zeros_like(mask)
    inside[top:bottom, left:right] = True
    assert not (mask & ~inside).any()
    if mask.any():
        part = mask[top:bottom, left:right]
        assert part[[0, -1]].any(1).all()
        assert part[:, [0, -1]].any(0).all()
    else:
        assert (top, left, bottom, right) == (0, 0, 0, 0)


@given(
    masks=st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
        lambda size: st.lists(stn.arrays(bool, size), min_size=1, max_size=4)
    )
)
@settings(max_examples=100, deadline=None)
def test_the_union(masks: list[np.ndarray]) -> None:
    union = RunLengths.union([RunLengths.from_mask(mask) for mask in masks])
    np.testing.assert_array_equal(union.cut((0, 0, *masks[0].shape)), np.any(masks, axis=0))


@given(runs=st.lists(st.integers(0, 5), min_size=1, max_size=20))
@settings(max_examples=200, deadline=None)
def test_runs_that_may_be_empty(runs: list[int]) -> None:
    rows = 4
    runs = [*runs, (-sum(runs)) % rows or rows]
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    mask = flat.reshape(rows, -1, order="F")
    found = RunLengths.from_runs(runs, mask.shape)
    np.testing.assert_array_equal(found.cut((0, 0, *mask.shape)), mask)
    assert found.box == RunLengths.from_mask(mask).box


def test_long_runs() -> None:
    """Numbers of one to five characters in the compressed code."""
    mask = np.zeros((3000, 2000), bool)
    for start, stop in ((5, 6), (40, 60), (900, 2000), (10**5, 2 * 10**5), (10**6, 5 * 10**6)):
        mask.T.reshape(-1)[start:stop] = True
    found = RunLengths.from_mask(mask)
    for top, left, bottom, right in [(0, 0, 3000, 2000), *boxes((3000, 2000), 1, 20)]:
        part = found.cut((top, left, bottom, right))
        np.testing.assert_array_equal(part, mask[top:bottom, left:right])


@pytest.mark.data
def test_parts_of_real_polygons(shared_data: Path) -> None:
    content = json.loads(
        (shared_data / "coco" / "annotations" / "instances_val2017.json").read_text()
    )
    sizes = {x["id"]: (x["height"], x["width"]) for x in content["images"]}
    for annotation in content["annotations"]:
        polygons, size = annotation["segmentation"], sizes[annotation["image_id"]]
        if isinstance(polygons, dict):
            continue
        whole = rle.decode(rle.merge(rle.frPyObjects(polygons, *size))).astype(bool)
        found = RunLengths.from_polygons(polygons, size)
        assert found.area == whole.sum()
        for top, left, bottom, right in (found.box, *boxes(size, annotation["id"], 3)):
            part = found.cut((top, left, bottom, right))
            np.testing.assert_array_equal(part, whole[top:bottom, left:right])

# SPDX-License-Identifier: Apache-2.0
"""Each rule of a whole object, on masks drawn for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from training.data.negatives.quality import (
    Instance,
    Quality,
    count_pieces,
    outlines_and_holes,
    rim_overlap,
)

SIZE = (80, 100)


def rectangle(top: int, left: int, bottom: int, right: int, **attributes: Any) -> Instance:
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return Instance.from_mask(mask, "thing", "1", **attributes)


def with_mask(mask: np.ndarray) -> Instance:
    return Instance.from_mask(np.pad(mask, 5), "thing", "1")


GOOD = rectangle(20, 30, 50, 60)


def test_from_mask_crops_and_survives_an_empty_mask() -> None:
    assert GOOD.box == (20, 30, 50, 60)
    empty = Instance.from_mask(np.zeros(SIZE, bool), "thing", "1")
    assert Quality(min_side=0, min_area=0).broken_rule(empty, [], SIZE) == "too small"


def test_a_whole_object_breaks_no_rule() -> None:
    assert Quality().broken_rule(GOOD, [rectangle(20, 70, 50, 90)], SIZE) is None


def test_crowd() -> None:
    crowd = rectangle(20, 30, 50, 60, crowd=True)
    assert Quality().broken_rule(crowd, [], SIZE) == "crowd"
    assert Quality(crowds=True).broken_rule(crowd, [], SIZE) is None


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (Quality(min_area=900, min_side=30), None),
        (Quality(min_area=901), "too small"),
        (Quality(min_side=31), "too small"),
    ],
)
def test_size(options: Quality, rule: str | None) -> None:
    assert options.broken_rule(GOOD, [], SIZE) == rule


@pytest.mark.parametrize(
    "box", [(1, 30, 40, 60), (20, 1, 50, 30), (40, 30, 79, 60), (20, 70, 50, 99)]
)
def test_border(box: tuple[int, int, int, int]) -> None:
    near = rectangle(*box)  # one pixel off the border
    assert Quality(border=2).broken_rule(near, [], SIZE) == "cut off by the border"
    assert Quality(border=1).broken_rule(near, [], SIZE) is None


def test_rim_overlap_by_hand() -> None:
    # Rim of 3 around 30x30: 36^2 - 30^2 = 396 pixels. The neighbour starts one column beside the
    # object, reaches over its height and covers 2 of the 3 columns of the rim there.
    beside = rectangle(20, 61, 50, 90)
    options = Quality(rim=3)
    assert rim_overlap(GOOD, [beside], options) == pytest.approx(30 * 2 / 396)
    # Two neighbours on the same pixels count once, and pixels on the object itself never.
    claims_it_too = rectangle(25, 35, 45, 95)
    assert rim_overlap(GOOD, [beside, claims_it_too], options) == pytest.approx(
        (30 * 2 + 20 * 1) / 396
    )
    assert rim_overlap(GOOD, [rectangle(20, 63, 50, 90)], options) == 0


def test_rim_overlap_against_scipy() -> None:
    rng = np.random.default_rng(1)
    noise = rng.random((5, *SIZE))
    masks = [ndimage.gaussian_filter(x, 6) > np.quantile(x, 0.5) for x in noise]
    instances = [Instance.from_mask(m, "thing", "1") for m in masks]
    rim = ndimage.binary_dilation(np.pad(masks[0], 4), np.ones((9, 9), bool))
    rim &= ~np.pad(masks[0], 4)
    covered = np.pad(np.any(masks[1:], axis=0), 4)
    got = rim_overlap(instances[0], instances[1:], Quality(rim=4, enclosing=True))
    assert got == pytest.approx((rim & covered).sum() / rim.sum())


def test_rim_overlap_of_a_neighbour_as_high_as_the_image() -> None:
    wall = rectangle(0, 62, SIZE[0], 90)
    assert rim_overlap(GOOD, [wall], Quality(rim=3)) == pytest.approx(36 / 396)
    # At the border of the image, the rim goes on beyond it.
    corner = rectangle(0, 0, 30, 30)
    assert rim_overlap(corner, [rectangle(0, 30, 80, 50)], Quality(rim=3)) == pytest.approx(
        33 * 3 / 396
    )


def test_occlusion() -> None:
    # By hand: 3 * 36 = 108 of the 396 pixels of the rim, then 3 * 31 more.
    over_two_sides = [rectangle(10, 60, 55, 90), rectangle(50, 10, 70, 58)]
    assert Quality(max_overlap=0.28).broken_rule(GOOD, over_two_sides[:1], SIZE) is None
    assert Quality(max_overlap=0.27).broken_rule(GOOD, over_two_sides[:1], SIZE) == "occluded"
    assert Quality(max_overlap=0.2).broken_rule(GOOD, over_two_sides, SIZE) == "occluded"
    assert Quality(max_overlap=0.9).broken_rule(GOOD, over_two_sides, SIZE) is None
    assert Quality(rim=0).broken_rule(GOOD, over_two_sides, SIZE) is None


def test_the_annotation_settles_what_is_hidden() -> None:
    neighbours = [rectangle(10, 60, 55, 90), rectangle(50, 10, 70, 58)]
    for hidden, rule in ((0.0, None), (0.05, None), (0.06, "occluded")):
        told = rectangle(20, 30, 50, 60, hidden=hidden)
        assert Quality().broken_rule(told, neighbours, SIZE) == rule
    told = rectangle(20, 30, 50, 60, hidden=0.5)
    assert Quality(max_hidden=0.5).broken_rule(told, [], SIZE) is None


def test_an_object_before_a_larger_one_is_not_occluded() -> None:
    table = rectangle(10, 10, 60, 90)
    assert Quality().broken_rule(GOOD, [table], SIZE) is None
    assert Quality(enclosing=True).broken_rule(GOOD, [table], SIZE) == "occluded"


def test_holes() -> None:
    mask = np.ones((30, 30), bool)
    mask[10:20, 10:20] = False
    assert outlines_and_holes(mask)[1] == pytest.approx(100 / 900)
    assert Quality().broken_rule(with_mask(mask), [], (60, 60)) == "holes"
    assert Quality(max_holes=0.12).broken_rule(with_mask(mask), [], (60, 60)) is None
    mask[10:20, 20:] = False  # open to the side: a bay, not a hole
    assert outlines_and_holes(mask)[1] == 0


def test_pieces() -> None:
    mask = np.zeros((30, 40), bool)
    mask[:, :18] = mask[:, 20:] = True
    assert count_pieces(mask) == 2
    assert Quality().broken_rule(with_mask(mask), [], (60, 60)) == "in pieces"
    assert Quality(max_pieces=2).broken_rule(with_mask(mask), [], (60, 60)) is None
    speck = np.zeros((30, 40), bool)
    speck[:, :30] = speck[3:6, 35:38] = True
    assert count_pieces(speck) == 1

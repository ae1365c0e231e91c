# SPDX-License-Identifier: Apache-2.0
"""Rectangles of synthetic negatives: sizes, places, and what they change in a batch."""

from __future__ import annotations

import pytest
import torch

from anomaly_seg_ros.errors import ParameterError
from training.data.mixing.mixed_views import MixedBatch
from training.flow.rectangles import draw_rectangles

SIDES = range(16, 217, 8)


def test_sizes_and_places_cover_what_they_should() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes, corners = set(), set()
    for _ in range(3000):
        r = draw_rectangles(2, (40, 300), SIDES, generator=generator)
        assert r.images.tolist() == [0, 1]
        assert (r.tops >= 0).all()
        assert (r.tops + r.height <= 40).all()
        assert (r.lefts >= 0).all()
        assert (r.lefts + r.width <= 300).all()
        sizes.add(r.size)
        corners.update(r.tops.tolist() if r.height == 32 else [])
    assert {h for h, _ in sizes} == {16, 24, 32, 40}  # what fits
    assert {w for _, w in sizes} == set(SIDES)  # 16, 24, ..., 216
    assert corners == set(range(9))  # every row, the last one, too


def test_a_crop_that_is_too_small_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"15x300 .* 16 to 216"):
        draw_rectangles(1, (15, 300), SIDES)


def test_share_of_the_images() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = [len(draw_rectangles(8, (64, 64), SIDES, 0.25, generator).images) for _ in range(500)]
    assert sum(counts) / (8 * 500) == pytest.approx(0.25, abs=0.02)
    assert 0 in counts


def test_paste_changes_the_rectangles_and_nothing_else() -> None:
    generator = torch.Generator().manual_seed(3)
    batch = MixedBatch(
        torch.randint(0, 256, (3, 3, 40, 48), dtype=torch.uint8, generator=generator),
        torch.randint(0, 19, (3, 40, 48), generator=generator),
        torch.zeros(3, 40, 48, dtype=torch.uint8),
    )
    before = MixedBatch(*(x.clone() for x in batch))
    r = draw_rectangles(3, (40, 48), SIDES, 0.5, generator)
    assert 0 < len(r.images) < 3
    content = torch.randint(0, 256, (len(r.images), 3, *r.size), dtype=torch.uint8)
    mixed = r.paste(batch, r.fill(batch.images, content))
    inside = torch.zeros(3, 40, 48, dtype=torch.bool)
    for i, top, left in zip(r.images, r.tops, r.lefts, strict=True):
        inside[i, top : top + r.height, left : left + r.width] = True
    assert int(inside.sum()) == len(r.images) * r.height * r.width
    assert torch.equal(mixed.ood_mask, inside.to(torch.uint8))
    assert (mixed.labels[inside] == 255).all()
    assert torch.equal(mixed.labels[~inside], batch.labels[~inside])
    outside = ~inside[:, None].expand(3, 3, 40, 48)
    assert torch.equal(mixed.images[outside], batch.images[outside])
    assert torch.equal(r.cut(mixed.images), content)
    assert all(torch.equal(a, b) for a, b in zip(before, batch, strict=True))  # a copy

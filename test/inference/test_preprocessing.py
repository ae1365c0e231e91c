# SPDX-License-Identifier: Apache-2.0
"""Sizes at which the network runs on frames of any size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomaly_seg_ros.inference.options import FULL, RESIZED, TILED, SegmenterOptions
from anomaly_seg_ros.inference.preprocessing import Framing, size_for


def framing(mode: str = RESIZED, size: tuple[int, int] | None = None) -> Framing:
    options = SegmenterOptions(
        inference_mode=mode, inference_size=size, tile_size=(64, 64), tile_overlap=32
    )
    return Framing.choose(options, (768, 1536), 32)


def seen(framing: Framing, rows: int, columns: int) -> tuple[int, int]:
    return framing.fit(np.zeros((rows, columns, 3), np.uint8)).shape[:2]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(2048, (768, 1536)), (384, (768, 1536)), (383, (768, 1536)), (256, (512, 1024)),
     (48, (96, 192)), (1, (32, 32))],
)  # fmt: skip
def test_small_frames_are_enlarged_twofold_at_most(rows: int, expected: tuple[int, int]) -> None:
    assert size_for(rows, (768, 1536), 32) == expected
    assert seen(framing(), rows, 100) == expected


@given(st.integers(1, 2000), st.sampled_from([(768, 1536), (512, 512), (32, 64)]))
def test_the_size_fits_the_network_and_never_exceeds_the_models_own(
    rows: int, size: tuple[int, int]
) -> None:
    height, width = size_for(rows, size, 32)
    assert height % 32 == width % 32 == 0
    assert 32 <= height <= size[0]
    assert 32 <= width <= size[1]
    assert height <= max(32, 2 * rows + 16)  # rounded to the nearest multiple


def test_a_size_that_was_asked_for_is_kept() -> None:
    assert seen(framing(size=(768, 1536)), 100, 200) == (768, 1536)
    assert seen(framing(TILED, (128, 128)), 10, 20) == (128, 128)
    assert seen(framing(FULL), 100, 200) == (128, 224)


def test_it_is_said() -> None:
    assert framing().describe() == "resized to at most 768 x 1536"
    assert framing(size=(64, 64)).describe() == "resized to 64 x 64"

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np

from training.data.mixing.paint import PaintOptions, paint_ground
from training.data.mixing.placement import Ground

GROUND = (0, 1, 9)
CAMERA = (1.3, 0.4)


def street() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    frame = rng.integers(90, 110, (120, 200, 3)).astype(np.uint8)
    labels = np.full((120, 200), 10, np.uint8)
    labels[50:] = 0
    return frame, labels


def painted(options: PaintOptions, seed: int) -> np.ndarray:
    frame, labels = street()
    paint_ground(
        frame,
        Ground(labels, GROUND),
        np.ones((30, 30), bool),
        options,
        CAMERA,
        np.random.default_rng(seed),
    )
    return frame


def test_only_the_ground_is_painted_and_it_shows_through() -> None:
    original, labels = street()
    changed = 0
    for seed in range(40):
        frame = painted(PaintOptions(opacity=(0.4, 0.6), dark=0, outline=0), seed)
        difference = np.abs(frame.astype(int) - original).max(2)
        assert (difference[labels != 0] == 0).all()
        # At most 0.6 of the way to a colour of at most 255.
        assert difference.max() <= 0.6 * (255 - 90) + 1
        changed += (difference > 5).any()
    assert changed >= 30


def test_patches_lie_flat() -> None:
    original, _ = street()
    seen = 0
    for seed in range(20):
        hit = (painted(PaintOptions(dark=1, outline=0), seed) != original).any(2)
        rows, columns = hit.any(1).sum(), hit.any(0).sum()
        # The smallest have no shape to tell.
        if rows > 4:
            assert rows < columns
            seen += 1
    assert seen >= 5


def test_dark_patches_only_darken() -> None:
    original, _ = street()
    for seed in range(10):
        assert (painted(PaintOptions(dark=1), seed) <= original).all()


def test_an_outline_covers_less() -> None:
    original, _ = street()
    options = {"dark": 1, "metres": (2.0, 2.0)}
    full = sum(
        (painted(PaintOptions(outline=0, **options), s) != original).sum() for s in range(9)
    )
    edge = sum(
        (painted(PaintOptions(outline=1, **options), s) != original).sum() for s in range(9)
    )
    assert 0 < edge < 0.8 * full


def test_a_frame_without_ground_stays_as_it_is() -> None:
    frame, labels = street()
    labels[:] = 10
    before = frame.copy()
    shape = np.ones((9, 9), bool)
    paint_ground(
        frame, Ground(labels, GROUND), shape, PaintOptions(), CAMERA, np.random.default_rng(0)
    )
    assert np.array_equal(frame, before)

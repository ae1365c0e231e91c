# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from training.data.mixing.placement import Box, Ground, PlacementOptions, place

ROAD, SKY = 0, 10
GROUND = (ROAD,)


def street(height: int = 200, width: int = 300, horizon: int = 80) -> np.ndarray:
    labels = np.full((height, width), SKY, np.uint8)
    labels[horizon:] = ROAD
    return labels


def test_horizon_is_the_top_of_the_ground() -> None:
    assert abs(Ground(street(), GROUND).horizon(0.4) - 80) <= 1


def test_horizon_without_ground_is_the_default_share() -> None:
    assert Ground(np.full((100, 100), 255, np.uint8), GROUND).horizon(0.42) == pytest.approx(42)


def test_a_few_mislabelled_pixels_in_the_sky_do_not_move_the_horizon() -> None:
    labels = street()
    labels[5, :20] = ROAD
    assert abs(Ground(labels, GROUND).horizon(0.4) - 80) <= 1


@pytest.mark.parametrize("by_distance", [0.0, 1.0])
def test_height_follows_the_row_of_the_foot(by_distance: float) -> None:
    """A thing of the camera's own height reaches exactly up to the horizon."""
    options = PlacementOptions(
        on_ground=1, by_distance=by_distance, object_height=(1.3, 1.3), max_enlargement=100
    )
    rng = np.random.default_rng(0)
    for _ in range(200):
        box, stands = place((40, 20), Ground(street(), GROUND), options, rng)
        assert stands
        foot = box.top + box.height - 1
        assert foot >= 80
        if box.height > options.min_rows:
            assert abs(box.height - (foot - 80)) <= 1.5


def test_drawing_by_distance_puts_more_objects_far_away() -> None:
    def far(by_distance: float) -> float:
        options = PlacementOptions(on_ground=1, by_distance=by_distance)
        rng = np.random.default_rng(1)
        feet = []
        for _ in range(400):
            box, _ = place((40, 40), Ground(street(), GROUND), options, rng)
            feet.append(box.top + box.height)
        return float(np.mean(np.array(feet) < 110))

    assert far(1.0) > 1.5 * far(0.0)


def test_boxes_stay_inside_the_frame() -> None:
    rng = np.random.default_rng(2)
    for index in range(500):
        shape = tuple(int(v) for v in rng.integers(1, 400, 2))
        labels = street(*(int(v) for v in rng.integers(90, 200, 2)), horizon=int(index % 80))
        box, _ = place(shape, Ground(labels, GROUND), PlacementOptions(max_enlargement=10), rng)
        assert box.top >= 0
        assert box.left >= 0
        assert box.height > 0
        assert box.width > 0
        assert box.top + box.height <= labels.shape[0]
        assert box.left + box.width <= labels.shape[1]


def test_an_object_is_narrower_in_a_squeezed_frame() -> None:
    options = PlacementOptions(on_ground=0, free_height=(0.3, 0.3), max_enlargement=10)
    plain, _ = place((40, 40), Ground(street(), GROUND), options, np.random.default_rng(3))
    squeezed, _ = place(
        (40, 40), Ground(street(), GROUND), options, np.random.default_rng(3), squeeze=2.0
    )
    assert squeezed.height == plain.height == 60
    assert squeezed.width == plain.width // 2


def test_enlargement_is_bounded() -> None:
    options = PlacementOptions(on_ground=0, free_height=(0.5, 0.5), max_enlargement=1.5)
    box, stands = place((10, 20), Ground(street(), GROUND), options, np.random.default_rng(4))
    assert (box.height, box.width) == (15, 30)
    assert not stands


def test_a_frame_without_ground_still_gets_its_object() -> None:
    labels = np.full((64, 64), 255, np.uint8)
    box, stands = place(
        (8, 8), Ground(labels, GROUND), PlacementOptions(on_ground=1), np.random.default_rng(5)
    )
    assert isinstance(box, Box)
    assert not stands

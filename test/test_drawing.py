# SPDX-License-Identifier: Apache-2.0
"""Pictures: exact colours, any strides and sizes, clear refusals."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from anomaly_seg_ros import drawing
from anomaly_seg_ros.errors import ImageError

RNG = np.random.default_rng(0)
PALETTE = np.array([[128, 64, 128], [0, 0, 142], [220, 20, 60]], np.uint8)
CITYSCAPES = np.array(
    [
        [128, 64, 128], [244, 35, 232], [70, 70, 70], [102, 102, 156], [190, 153, 153],
        [153, 153, 153], [250, 170, 30], [220, 220, 0], [107, 142, 35], [152, 251, 152],
        [70, 130, 180], [220, 20, 60], [255, 0, 0], [0, 0, 142], [0, 0, 70], [0, 60, 100],
        [0, 80, 100], [0, 0, 230], [119, 11, 32],
    ]
)  # fmt: skip


def street(height: int = 48, width: int = 64) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def is_picture(array: np.ndarray) -> bool:
    return array.dtype == np.uint8 and array.shape[2] == 3 and array.flags.c_contiguous


def test_colourise_uses_the_palette_and_black_for_the_rest() -> None:
    labels = np.array([[0, 1, 2], [3, 254, 255]], np.uint8)
    picture = drawing.colourise(labels, PALETTE)
    assert is_picture(picture)
    np.testing.assert_array_equal(picture[0], PALETTE)
    assert not picture[1].any()


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (33, 17)])
def test_any_size_and_strides(size: tuple[int, int]) -> None:
    height, width = size
    image = street(height * 2, width * 3)[::2, ::-3]
    labels = RNG.integers(0, 4, (width, height), dtype=np.uint8).T
    unknown = RNG.random((width, height)).T > 0.5
    score = RNG.random((height, width * 2))[:, ::2]
    for got, want in (
        (drawing.colourise(labels, PALETTE), drawing.colourise(labels.copy(), PALETTE)),
        (
            drawing.overlay(image, labels, PALETTE, 0.5, unknown),
            drawing.overlay(image.copy(), labels.copy(), PALETTE, 0.5, unknown.copy()),
        ),
        (drawing.heat_map(score), drawing.heat_map(score.copy())),
        (drawing.anomaly_mask(labels), drawing.anomaly_mask(labels.copy())),
    ):
        assert is_picture(got)
        assert got.shape == (height, width, 3)
        np.testing.assert_array_equal(got, want)


def test_overlay_blends_by_alpha_and_leaves_its_input_alone() -> None:
    image, labels = street(), np.full((48, 64), 2, np.uint8)
    before = image.copy()
    np.testing.assert_array_equal(drawing.overlay(image, labels, PALETTE, 0.0), image)
    np.testing.assert_array_equal(
        drawing.overlay(image, labels, PALETTE, 1.0), drawing.colourise(labels, PALETTE)
    )
    half = drawing.overlay(image, labels, PALETTE, 0.5).astype(int)
    assert np.abs(half - (image.astype(int) + PALETTE[2]) / 2).max() <= 0.5
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_overlay_marks_unknown_regions_and_outlines_them(dtype: type) -> None:
    image, labels = np.full((60, 80, 3), 90, np.uint8), np.zeros((60, 80), np.uint8)
    unknown = np.zeros((60, 80), dtype)
    unknown[20:23, 30:34] = 1 if dtype is bool else 255
    plain = drawing.overlay(image, labels, PALETTE, 0.5)
    marked = drawing.overlay(image, labels, PALETTE, 0.5, unknown)
    changed = (marked != plain).any(2)
    assert changed[20:23, 30:34].all()
    assert (marked[19, 30:34] == 255).all()
    assert (marked[20:23, 29] == 255).all()
    assert changed.sum() < 45, "only the region and its outline may change"
    tinted = marked[21, 31].astype(int)
    assert tinted[1] > tinted[0] + 100
    assert tinted[2] > tinted[0] + 100


def test_overlay_without_unknown_pixels_is_the_plain_overlay() -> None:
    image, labels = street(), np.zeros((48, 64), np.uint8)
    np.testing.assert_array_equal(
        drawing.overlay(image, labels, PALETTE, 0.4, np.zeros((48, 64), bool)),
        drawing.overlay(image, labels, PALETTE, 0.4),
    )


def test_unknown_colour_is_far_from_every_class_colour() -> None:
    distance = np.abs(CITYSCAPES - np.array(drawing.UNKNOWN_COLOUR)).max(1)
    assert distance.min() > 100


def test_heat_map_has_a_fixed_range_and_grows_brighter() -> None:
    ramp = drawing.heat_map(np.linspace(0, 1, 256, dtype=np.float32)[None])
    brightness = cv2.cvtColor(ramp, cv2.COLOR_RGB2GRAY)[0].astype(int)
    assert (np.diff(brightness) >= -1).all()
    assert brightness[-1] - brightness[0] > 200
    np.testing.assert_array_equal(
        drawing.heat_map(np.float32([[0.2, 0.3]]))[0, 0],
        drawing.heat_map(np.float32([[0.2, 0.9]]))[0, 0],
    )


def test_heat_map_clips_and_shows_nan_as_most_anomalous() -> None:
    score = np.float32([[-3, 0, 1, 7, np.inf, -np.inf, np.nan]])
    picture = drawing.heat_map(score)[0]
    low, high = picture[1], picture[2]
    np.testing.assert_array_equal(picture[[0, 5]], [low, low])
    np.testing.assert_array_equal(picture[[3, 4, 6]], [high, high, high])
    assert np.isnan(score[0, 6]), "the input stays as it was"


def test_anomaly_mask_tells_its_three_kinds_apart() -> None:
    picture = drawing.anomaly_mask(np.array([[0, 1, 255]], np.uint8))[0]
    assert len(np.unique(picture, axis=0)) == 3
    assert tuple(picture[1]) == drawing.UNKNOWN_COLOUR
    assert not picture[2].any()


def test_grid_places_scaled_pictures_under_titles() -> None:
    red, blue = np.zeros((20, 40, 3), np.uint8), np.zeros((50, 50, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    picture = drawing.grid([[red, blue], [blue]], ["input", "score"], cell_width=100, gap=4)
    assert is_picture(picture)
    assert picture.shape == (28 + 4 + 104 + 104, 4 + 2 * 104, 3)
    assert tuple(picture[28 + 4 + 25, 50]) == (255, 0, 0)
    assert tuple(picture[28 + 4 + 50, 4 + 104 + 50]) == (0, 0, 255)
    assert tuple(picture[-20, -20]) == (255, 255, 255)
    assert picture[:28].min() < 100, "titles are drawn"


def test_beside() -> None:
    left, right = street(), street()
    np.testing.assert_array_equal(drawing.beside(left, right), np.hstack([left, right]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: drawing.colourise(np.zeros((4, 4, 3), np.uint8), PALETTE), "labels"),
        (lambda: drawing.colourise(np.zeros((4, 4), np.int32), PALETTE), "int32"),
        (lambda: drawing.colourise(np.zeros((0, 4), np.uint8), PALETTE), "not empty"),
        (lambda: drawing.colourise(np.zeros((4, 4), np.uint8), PALETTE[:, :2]), "palette"),
        (lambda: drawing.overlay(street(), np.zeros((4, 4), np.uint8), PALETTE, 0.5), "image is"),
        (
            lambda: drawing.overlay(
                street(), np.zeros((48, 64), np.uint8), PALETTE, 0.5, np.zeros((64, 48), bool)
            ),
            "unknown mask is",
        ),
        (lambda: drawing.heat_map(np.zeros((4, 4), np.uint8)), "floating point"),
        (lambda: drawing.heat_map(np.zeros(4, np.float32)), "score"),
        (lambda: drawing.grid([[]]), "at least one picture"),
        (lambda: drawing.grid([[np.zeros((4, 4), np.uint8)]]), "picture"),
        (lambda: drawing.beside(street(), street(10, 10)), "the first picture"),
    ],
)
def test_refuses_what_is_no_picture(call, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        call()


def test_objects_are_marked_around_them_and_inside_the_picture() -> None:
    picture = np.full((200, 300, 3), 90, np.uint8)
    boxes = [(100, 80, 60, 40), (0, 0, 30, 20), (270, 180, 30, 20)]
    marked = drawing.mark_objects(picture, boxes, [f"#{n}  0.5{n}" for n in range(1, 4)])
    assert marked.shape == picture.shape
    assert marked.dtype == np.uint8
    assert (picture == 90).all(), "its input is left alone"
    left, top, width, height = boxes[0]
    inside = marked[top : top + height, left : left + width]
    assert (inside == 90).mean() > 0.9, "the object itself stays visible"
    # White corners outside the box, of equal length.
    corner = marked[top - 5, left - 5 : left + width + 5]
    assert (corner[[0, 1, -1, -2]].min(axis=1) > 120).all()
    assert (corner[width // 2] == 90).all()
    # At the picture's edge the box is closed, too.
    assert (marked[2:8, 2].min(axis=1) > 120).all()
    assert (marked[-8:-2, -3].min(axis=1) > 120).all()


def test_captions_do_not_cover_one_another_where_there_is_room() -> None:
    picture = np.zeros((300, 300, 3), np.uint8)
    boxes = [(100, 100, 60, 40), (108, 108, 40, 20), (96, 96, 80, 60)]
    cyan = np.array(drawing.UNKNOWN_COLOUR)

    def bars(marked: np.ndarray) -> int:
        """Rows of the cyan bars at the left of the captions."""
        return int((np.abs(marked.astype(int) - cyan).max(axis=2) < 60).any(axis=1).sum())

    one = bars(drawing.mark_objects(picture, boxes[:1], ["#1  0.70"]))
    assert one > 8
    assert bars(drawing.mark_objects(picture, boxes, ["#1  0.70", "#2  0.60", "#3  0.55"])) >= (
        2.5 * one
    )


def test_nothing_to_mark_and_pictures_smaller_than_a_caption() -> None:
    picture = np.full((200, 300, 3), 90, np.uint8)
    np.testing.assert_array_equal(drawing.mark_objects(picture, [], []), picture)
    tiny = drawing.mark_objects(np.zeros((9, 12, 3), np.uint8), [(2, 2, 5, 5)], ["#1  0.70"])
    assert tiny.shape == (9, 12, 3)
    with pytest.raises(ImageError):
        drawing.mark_objects(np.zeros((9, 12), np.uint8), [], [])

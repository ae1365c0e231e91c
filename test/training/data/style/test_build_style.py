# SPDX-License-Identifier: Apache-2.0
"""The registry of style alignments, and what every one of them keeps to."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from anomaly_seg_ros.errors import ParameterError
from training.data.style import STYLES, build_style, build_styles

# The learned style has its own tests: it needs weights.
CLASSIC = ("lab_moments", "lab_histogram", "fourier")


def picture(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_names() -> None:
    assert list(STYLES) == ["none", *CLASSIC, "learned"]
    assert build_style("none") is None
    with pytest.raises(ParameterError, match=r"style: expected one of none, lab_moments.*'lab'"):
        build_style("lab")


@pytest.mark.parametrize("name", ["none", *CLASSIC])
def test_unknown_options(name: str) -> None:
    with pytest.raises(ParameterError, match=f"'{name}'.*'gamma'"):
        build_style(name, {"gamma": 1})


@pytest.mark.parametrize("name", CLASSIC)
@pytest.mark.parametrize("size", [(1, 1), (2, 37), (10, 11), (97, 53)])
@pytest.mark.parametrize("exemplar_size", [(1, 1), (40, 64), (300, 200)])
def test_any_size_in_the_same_size_out(
    name: str, size: tuple[int, int], exemplar_size: tuple[int, int]
) -> None:
    image, exemplar = picture(1, *size), picture(2, *exemplar_size)
    before = image.copy(), exemplar.copy()
    mask = np.ones(size, bool)
    styled = build_style(name)(image, mask, exemplar, np.random.default_rng(0))
    assert styled.shape == image.shape
    assert styled.dtype == np.uint8
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(exemplar, before[1])


@pytest.mark.parametrize("name", CLASSIC)
def test_repeats_itself_also_after_a_pickle(name: str) -> None:
    style = build_style(name)
    image, exemplar = picture(1, 30, 40), picture(2, 60, 50) // 2
    mask = np.indices((30, 40)).sum(0) % 7 < 4
    first = style(image, mask, exemplar, np.random.default_rng(5))
    again = pickle.loads(pickle.dumps(style))(image, mask, exemplar, np.random.default_rng(5))
    np.testing.assert_array_equal(first, again)
    assert (first != image).any()


@pytest.mark.parametrize("name", CLASSIC)
def test_without_strength_or_mask_nothing_changes(name: str) -> None:
    image, exemplar = picture(1, 30, 40), picture(2, 60, 50) // 2
    mask = np.ones((30, 40), bool)
    rng = np.random.default_rng(0)
    kept = build_style(name, {"strength": 0.0})(image, mask, exemplar, rng).astype(int)
    assert np.abs(kept - image).max() <= 1  # rounding on the way through Lab
    np.testing.assert_array_equal(build_style(name)(image, ~mask, exemplar, rng), image)


@pytest.mark.parametrize("name", CLASSIC)
@pytest.mark.parametrize("strength", [-0.1, 1.1, (0.6, 0.4), (0.1, 0.2, 0.3)])
def test_strength_out_of_range(name: str, strength: float | tuple) -> None:
    with pytest.raises(ParameterError, match="strength: expected 0 to 1"):
        build_style(name, {"strength": strength})


@pytest.mark.parametrize("name", CLASSIC)
def test_only_the_object_counts_not_what_is_around_it(name: str) -> None:
    exemplar = picture(2, 60, 50) // 2 + 60
    mask = np.zeros((40, 40), bool)
    mask[8:30, 10:33] = True
    image = picture(1, 40, 40) // 3 + 80
    other = image.copy()
    other[~mask] = picture(3, 40, 40)[~mask]
    rng = np.random.default_rng(0)
    one, two = (build_style(name)(x, mask, exemplar, rng) for x in (image, other))
    np.testing.assert_array_equal(one[mask], two[mask])


@pytest.mark.parametrize("name", CLASSIC)
def test_a_range_of_strengths_is_drawn_from(name: str) -> None:
    image, exemplar = np.full((8, 8, 3), 60, np.uint8), np.full((8, 8, 3), 160, np.uint8)
    mask = np.ones((8, 8), bool)
    style = build_style(name, {"strength": [0.25, 0.75]})
    drawn = [style(image, mask, exemplar, np.random.default_rng(i)).mean() for i in range(200)]
    assert len(set(drawn)) > 20
    assert 80 < min(drawn) < 95  # a quarter of the way, in Lab or in RGB
    assert 125 < max(drawn) < 140


def test_several_styles_are_drawn_in_turn() -> None:
    image = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    mask = np.ones((40, 40), bool)
    frame = np.full((60, 60, 3), 80, np.uint8)
    style = build_styles(["none", "lab_moments"])
    rng = np.random.default_rng(1)
    unchanged = [np.array_equal(style(image, mask, frame, rng), image) for _ in range(60)]
    assert 15 <= sum(unchanged) <= 45


def test_one_name_in_a_list_is_that_style() -> None:
    assert build_styles(["none"]) is None
    assert type(build_styles(["fourier"])) is type(build_style("fourier"))


def test_an_empty_list_of_styles() -> None:
    with pytest.raises(ParameterError, match="at least one"):
        build_styles([])

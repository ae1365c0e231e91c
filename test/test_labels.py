# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from anomaly_seg_ros.errors import BagError, DatasetError, ParameterError
from anomaly_seg_ros.labels import (
    MaskConvention,
    anomalies_from_255,
    check_anomaly_mask,
    check_labels,
    check_mask_255,
)


def plane(*values: int) -> np.ndarray:
    """(8, 16) uint8 that holds each of the values, some only once."""
    array = np.full((8, 16), values[0], np.uint8)
    array[3, : len(values)] = values
    return array


@pytest.mark.parametrize("values", [(0,), (1,), (255,), (0, 1), (0, 1, 255)])
def test_masks_of_0_1_and_255_pass(values):
    check_anomaly_mask(plane(*values), "a.png")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((0, 2), "a.png: holds the value 2, which"),
        ((0, 1, 254, 128), "a.png: holds the values 128, 254, which"),
        (range(9), "a.png: holds the values 2, 3, 4, 5, 6, ..., which"),
    ],
)
def test_other_values_of_a_mask_are_named(values, words):
    with pytest.raises(DatasetError) as caught:
        check_anomaly_mask(plane(*values), "a.png", hint="do this")
    assert str(caught.value).startswith(words)
    assert str(caught.value).endswith("(0 in-distribution, 1 anomaly, 255 ignore); do this")


def test_one_wrong_pixel_among_two_million_is_found():
    mask = np.zeros((1024, 2048), np.uint8)
    mask[-1, -1] = 7
    with pytest.raises(BagError, match="topic /mask: holds the value 7"):
        check_anomaly_mask(mask, "topic /mask", BagError)


def test_arrays_that_are_no_block_of_memory():
    mask = np.zeros((64, 64), np.uint8)
    mask[::2, 1::2] = 9
    check_anomaly_mask(mask[1::2, ::2], "a.png")
    with pytest.raises(DatasetError):
        check_anomaly_mask(mask[::2, 1::2], "a.png")


@pytest.mark.parametrize("num_classes", [2, 19, 255])
def test_labels_are_the_classes_and_255(num_classes):
    check_labels(plane(0, num_classes - 1, 255), num_classes, "a.png")


@pytest.mark.parametrize("value", [19, 33, 200, 254])
def test_labels_of_no_class_are_named(value):
    expected = rf"a\.png: holds the value {value}, which .*trainIds 0 to 18, 255 ignore"
    with pytest.raises(DatasetError, match=expected):
        check_labels(plane(0, 255, value), 19, "a.png")


def test_masks_whose_255_is_the_anomaly():
    mask = plane(0, 255, 0, 255)
    assert np.array_equal(anomalies_from_255(mask, "a.png"), mask // 255)
    for value in (1, 128):
        with pytest.raises(DatasetError, match=rf"a\.png: holds the value {value}, but where 255"):
            anomalies_from_255(plane(0, 255, value), "a.png")


@pytest.mark.parametrize(
    ("masks", "is_ambiguous"),
    [
        ([(0, 255), (0, 255)], True),
        ([(0,), (255,)], True),
        ([(0, 255), (0, 1)], False),
        ([(0,), (0,)], False),
        ([(255,)], False),
        ([(0, 1, 255)], False),
        ([], False),
    ],
)
def test_sets_of_0_and_255_alone_are_ambiguous(masks, is_ambiguous):
    convention = MaskConvention()
    for values in masks:
        convention.add(plane(*values))
    assert convention.is_settled == any(1 in values for values in masks)
    if is_ambiguous:
        with pytest.raises(DatasetError, match=r"^here: .*--mask-255 anomaly or --mask-255 ignor"):
            convention.check("here")
    else:
        convention.check("here")


def test_values_of_the_option():
    assert [check_mask_255(value) for value in (None, "ignore", "anomaly")] == [
        None, "ignore", "anomaly"
    ]  # fmt: skip
    with pytest.raises(ParameterError, match="mask_255: expected one of ignore, anomaly, got yes"):
        check_mask_255("yes")

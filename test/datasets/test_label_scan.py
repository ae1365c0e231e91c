# SPDX-License-Identifier: Apache-2.0
"""Masks of 0 and 255: "no anomaly, the rest ignored" here, and "anomaly" in half of the world."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from anomaly_seg_ros.datasets import label_scan, open_dataset
from anomaly_seg_ros.datasets.label_scan import check_mask_convention, stored_values
from anomaly_seg_ros.errors import DatasetError, ImageError, ParameterError

SHAPE = (4, 6)


def mask_of(*values: int) -> np.ndarray:
    """Holds each of the values, the first one most often."""
    mask = np.full(SHAPE, values[0], np.uint8)
    mask.flat[: len(values)] = values
    return mask


@pytest.fixture
def put_masks(put, picture, tmp_path):
    """Writes a folder data set with these masks, and returns it."""

    def write(*masks: np.ndarray, **options: str):
        for i, mask in enumerate(masks):
            put(f"images/{i:03}.png", picture)
            put(f"labels/{i:03}.png", mask)
        return open_dataset("folder", tmp_path, **options)

    return write


def test_a_set_of_0_and_255_is_refused_with_the_option_that_settles_it(put_masks, tmp_path):
    dataset = put_masks(mask_of(0), mask_of(0, 255), mask_of(0))
    with pytest.raises(DatasetError) as caught:
        check_mask_convention(dataset, tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: ")
    assert "--mask-255 anomaly" in message
    assert "mask_255=anomaly" in message
    assert "\n" not in message


@pytest.mark.parametrize("channels", [3, 4])
def test_colour_files_with_equal_channels_are_no_way_around_it(put_masks, tmp_path, channels):
    mask = np.repeat(mask_of(0, 255)[..., None], channels, axis=2)
    with pytest.raises(DatasetError, match="255 may mean anomaly or ignore"):
        check_mask_convention(put_masks(mask), tmp_path)


def test_a_set_with_any_1_is_settled(put_masks, tmp_path):
    check_mask_convention(put_masks(*[mask_of(0, 255)] * 40, mask_of(0, 1)), tmp_path)


@pytest.mark.parametrize("values", [(0,), (0, 1), (1,), (0, 1, 255)])
def test_sets_that_say_what_they_mean(put_masks, tmp_path, values):
    check_mask_convention(put_masks(mask_of(*values), mask_of(0)), tmp_path)


def test_reading_stops_at_the_first_1(put_masks, tmp_path, monkeypatch):
    read = []
    decode = label_scan.read_label

    def count(path):
        read.append(path)
        return decode(path)

    monkeypatch.setattr(label_scan, "read_label", count)
    monkeypatch.setattr(label_scan.os, "cpu_count", lambda: 2)
    check_mask_convention(put_masks(*[mask_of(0, 1)] * 100), tmp_path)
    assert len(read) == 4
    read.clear()
    check_mask_convention(put_masks(*[mask_of(0)] * 100), tmp_path)
    assert len(set(read)) == len(read) == 100


def test_a_damaged_mask_is_told_by_its_frame_and_not_before(put_masks, put, tmp_path):
    dataset = put_masks(mask_of(0), mask_of(0, 255))
    path = tmp_path / "labels" / "000.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DatasetError, match="255 may mean anomaly or ignore"):
        check_mask_convention(dataset, tmp_path)
    put("labels/001.png", mask_of(0, 1))
    check_mask_convention(dataset, tmp_path)
    with pytest.raises(ImageError, match="truncated"):
        dataset[0].load()


@pytest.mark.parametrize(
    ("meaning", "value"),
    [("anomaly", 1), ("ignore", 255)],
)
def test_the_option_settles_it(put_masks, tmp_path, meaning, value):
    dataset = put_masks(mask_of(0, 255, 0), mask_of(0), mask_255=meaning)
    check_mask_convention(dataset, tmp_path)
    assert np.array_equal(dataset[0].load().anomaly_mask, mask_of(0, value, 0))
    assert np.array_equal(dataset[1].load().anomaly_mask, mask_of(0))


@pytest.mark.parametrize("value", [1, 128])
def test_nothing_else_stands_beside_255_where_it_is_the_anomaly(put_masks, value):
    dataset = put_masks(mask_of(0, 255, value), mask_255="anomaly")
    with pytest.raises(ImageError, match=rf"000\.png: holds the value {value}, but where 255"):
        dataset[0].load()


def test_options_that_contradict_each_other(put_masks, tmp_path):
    with pytest.raises(ParameterError, match="mask_255: expected one of ignore, anomaly, got 1"):
        put_masks(mask_of(0), mask_255="1")
    with pytest.raises(ParameterError, match="mask_255: is for anomaly masks"):
        put_masks(mask_of(0), mask_255="ignore", labels="classes")
    with pytest.raises(ParameterError, match="'segment_me_if_you_can' has no such option"):
        open_dataset("segment_me_if_you_can", tmp_path, mask_255="anomaly")


def test_a_label_map_says_what_255_means(put_masks, tmp_path):
    path = tmp_path / "map.yaml"
    path.write_text("labels: {0: known, 255: ignore}")
    check_mask_convention(put_masks(mask_of(0, 255), label_map=path), tmp_path)


def test_masks_of_official_layouts_are_defined(put, picture, tmp_path):
    put("images/a.jpg", picture)
    put("labels_masks/a_labels_semantic.png", mask_of(0, 255))
    dataset = open_dataset("auto", tmp_path)
    assert dataset.name == "segment_me_if_you_can"
    check_mask_convention(dataset, tmp_path)
    assert np.array_equal(dataset[0].load().anomaly_mask, mask_of(0, 255))


def test_the_reported_set(shared_cases):
    folder = shared_cases / "masks" / "binary_0_255"
    with pytest.raises(DatasetError, match=r"binary_0_255: .*--mask-255 anomaly"):
        check_mask_convention(open_dataset("auto", folder), folder)
    (sample,) = open_dataset("auto", folder, mask_255="anomaly")
    stored = cv2.imread(str(folder / "labels" / "a.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(sample.load().anomaly_mask, stored // 255)


def test_values_of_files_in_order(put):
    rng = np.random.default_rng(1)
    images = [rng.choice([0, 1, 18, 254, 255], (9, 7)).astype(np.uint8) for _ in range(20)]
    images.append(np.arange(256, dtype=np.uint8).reshape(16, 16))
    paths = [put(f"{i}.png", image) for i, image in enumerate(images)]
    assert stored_values(paths) == [frozenset(image.ravel().tolist()) for image in images]
    assert stored_values([]) == []


def test_a_damaged_file_is_named(put):
    good, bad = put("a.png", np.zeros((4, 6), np.uint8)), put("b.png", np.zeros((4, 6), np.uint8))
    bad.write_bytes(bad.read_bytes()[:40])
    with pytest.raises(ImageError, match=r"b\.png: truncated PNG"):
        stored_values([good, bad])

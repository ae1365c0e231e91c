# SPDX-License-Identifier: Apache-2.0
"""Good forms are readable and unchanged in what they show; bad forms are refused."""

from __future__ import annotations

import numpy as np
import pytest

from anomaly_seg_ros.io.pixel_formats import FrameError, rgb_from_raw
from tools.fault_replay import frames

PICTURE = frames.pictures(3)[2]
VARIANTS = range(66)


def test_pictures_differ_and_come_again():
    first, second = frames.pictures(2), frames.pictures(2)
    np.testing.assert_array_equal(first, second)
    assert (first[0] != first[1]).any()
    assert first[0].shape == (32, 48, 3)
    assert first[0].dtype == np.uint8


@pytest.mark.parametrize("name", frames.GOOD_FORMS)
def test_good_forms_are_readable(name):
    seen = {}
    for variant in VARIANTS:
        form = frames.make(name, PICTURE, variant)
        rgb = rgb_from_raw(form.image)
        assert form.good
        assert rgb.shape == (form.image.height, form.image.width, 3)
        if form.pixels.startswith("rgb"):
            np.testing.assert_array_equal(rgb, PICTURE)
        np.testing.assert_array_equal(rgb, seen.setdefault(form.pixels, rgb))


def test_padded_rows_are_padded():
    for variant in VARIANTS:
        image = frames.make("padded rows", PICTURE, variant).image
        samples = {"rgba8": 4, "bgra8": 4, "rgb16": 6}.get(image.encoding, 3)
        assert image.step > image.width * samples


def test_other_encodings_and_sizes_are_many():
    assert len({frames.make("other encoding", PICTURE, v).image.encoding for v in VARIANTS}) > 8
    sizes = {frames.make("resized in mid-stream", PICTURE, v).pixels for v in VARIANTS}
    assert len(sizes) > 4


@pytest.mark.parametrize("name", frames.BAD_FORMS)
def test_bad_forms_are_refused(name):
    for variant in VARIANTS:
        form = frames.make(name, PICTURE, variant)
        assert not form.good
        with pytest.raises(FrameError):
            rgb_from_raw(form.image)


def test_forms_take_pictures_of_odd_size():
    picture = frames.pictures(1, 33, 51)[0]
    for name in frames.GOOD_FORMS:
        for variant in VARIANTS:
            rgb_from_raw(frames.make(name, picture, variant).image)


def test_garbage_is_broken_but_for_the_one_that_may_be_read():
    serialised = bytes(range(250)) * 4
    made = [frames.garbage(serialised, variant) for variant in range(20)]
    assert serialised not in made
    assert len(set(made)) > 10
    assert made == [frames.garbage(serialised, variant) for variant in range(20)]
    (same_layout, *_) = [m for v, m in enumerate(made) if frames.may_be_read(v)]
    assert same_layout[4:] == serialised[4:]

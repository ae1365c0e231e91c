# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from training.data.corpora import Corpus
from training.data.negatives.objects import BalancedObjects, SceneObjects

CAR, BUS = 13, 15
NAMES = {CAR: "car", BUS: "bus"}


def corpus(aspect: float = 0.0) -> Corpus:
    labels = np.zeros((100, 100), np.uint8)
    labels[10:40, 20:60] = CAR
    labels[50:80, 20:45] = CAR
    labels[50:80, 60:90] = BUS
    labels[70:, 0:18] = BUS  # leaves the frame
    labels[90:94, 50:90] = CAR  # too low
    image = np.repeat(labels[..., None], 3, 2)
    return Corpus.of_arrays("street", [image], [labels], aspect=aspect, things=(CAR, BUS))


def test_whole_regions_are_cut_out_with_their_pixels() -> None:
    objects = SceneObjects([corpus()], NAMES)
    assert sorted(objects.categories) == ["bus", "car", "car"]
    for index, category in enumerate(objects.categories):
        item = objects[index]
        assert item.category == category
        assert item.mask.all()
        assert (item.image == (CAR if category == "car" else BUS)).all()
    assert objects[0].mask.shape == (30, 40)


def test_touching_boxes_do_not_mix_regions() -> None:
    labels = np.zeros((60, 60), np.uint8)
    labels[5:50, 5:25] = CAR
    labels[5:25, 5:50] = CAR
    labels[30:55, 30:55] = CAR  # inside the box of the first, another region
    image = np.zeros((60, 60, 3), np.uint8)
    objects = SceneObjects([Corpus.of_arrays("street", [image], [labels], things=(CAR,))], NAMES)
    sizes = sorted(int(objects[i].mask.sum()) for i in range(len(objects)))
    assert sizes == [25 * 25, 45 * 20 + 25 * 20]


def test_objects_of_squeezed_frames_get_their_true_width() -> None:
    plain = SceneObjects([corpus()], NAMES)[0]
    wide = SceneObjects([corpus(aspect=2.0)], NAMES)[0]
    assert wide.mask.shape == (plain.mask.shape[0], 2 * plain.mask.shape[1])


def test_index_out_of_range() -> None:
    with pytest.raises(IndexError):
        SceneObjects([corpus()], NAMES)[3]


def test_balanced_source_shows_each_category_equally_often() -> None:
    objects = SceneObjects([corpus()], NAMES)
    balanced = BalancedObjects([(objects, objects.categories)])
    counts = Counter(balanced[i].category for i in range(len(balanced)))
    assert counts == {"car": 2, "bus": 2}
    sources = {balanced[i].source for i in range(len(balanced))}
    assert len(sources) == 3

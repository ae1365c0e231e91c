# SPDX-License-Identifier: Apache-2.0
"""Sources by their kind in a configuration, and several of them in one run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomaly_seg_ros.errors import DatasetError, ParameterError
from anomaly_seg_ros.taxonomy import Taxonomy, load_taxonomy
from training.data.block import ObjectsBlock
from training.data.negatives import JoinedObjects, NegativeObject, open_objects

# pycocotools 2.0.11 under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

COCO = ObjectsBlock()
MINE = Taxonomy("mine", ("floor", "vehicle"), np.zeros((2, 3), np.uint8))


def test_coco_by_kind(tiny_coco: Path) -> None:
    source = open_objects(COCO, tiny_coco, "train2017", load_taxonomy())
    assert source.categories == ["dog", "dining table", "cup"]
    known = open_objects(COCO, tiny_coco, "train2017", load_taxonomy(), "only")
    assert known.categories == ["person", "train", "traffic sign"]


def test_coco_for_somebodys_own_taxonomy(tiny_coco: Path) -> None:
    with pytest.raises(ParameterError, match=r"known_classes: .* 7 coco classes \('cup'"):
        open_objects(COCO, tiny_coco, "train2017", MINE)


def test_coco_with_the_known_classes_of_a_taxonomy(tiny_coco: Path) -> None:
    block = ObjectsBlock(known_classes={"train": "vehicle"})
    found = open_objects(block, tiny_coco, "train2017", MINE)
    assert "train" not in found.categories
    assert {"person", "stop sign", "dog"} <= set(found.categories)
    only = open_objects(block, tiny_coco, "train2017", MINE, "only")
    assert only.categories == ["vehicle"]
    none = ObjectsBlock(known_classes={})
    everything = open_objects(none, tiny_coco, "train2017", MINE)
    assert "train" in everything.categories


def test_a_folder_by_kind(tmp_path: Path) -> None:
    for part, values in (("images", 3), ("masks", 1)):
        (tmp_path / "val" / part).mkdir(parents=True)
        pixels = np.zeros((40, 50, values), np.uint8).squeeze()
        pixels[10:30, 10:40] = 255
        cv2.imwrite(str(tmp_path / "val" / part / "a.png"), pixels)
    source = open_objects(ObjectsBlock(adapter="folder"), tmp_path, "val", MINE)
    assert source.categories == ["object"]
    ignored = ObjectsBlock(adapter="folder", mask_255="ignore")
    with pytest.raises(DatasetError, match="no usable object left"):
        open_objects(ignored, tmp_path, "val", MINE)
    with pytest.raises(ParameterError, match="adapter: expected coco, ade"):
        open_objects(ObjectsBlock(adapter="lvis"), tmp_path, "val", MINE)


class Numbered:
    """Objects that know their number."""

    def __init__(self, name: str, count: int) -> None:
        self.name = name
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> NegativeObject:
        assert 0 <= index < self.count
        pixels = np.zeros((1, 1, 3), np.uint8)
        return NegativeObject(pixels, pixels[..., 0] == 0, self.name, f"{self.name} {index}")

    def describe(self) -> str:
        return f"{self.count} of {self.name}"


@pytest.mark.parametrize("weights", [(1, 1), (2.0, 1.0), (0.003, 0.001), (1, 9)])
def test_weights_set_how_often_a_source_is_drawn(weights: tuple[float, float]) -> None:
    joined = JoinedObjects([Numbered("few", 35), Numbered("many", 95)], weights)
    items = [joined[i] for i in range(len(joined))]
    counts = Counter(item.category for item in items)
    share = counts["few"] / len(joined)
    assert share / (1 - share) == pytest.approx(weights[0] / weights[1], rel=0.005)
    # All objects of a source equally often.
    for name, size in (("few", 35), ("many", 95)):
        each = Counter(item.source for item in items if item.category == name)
        assert len(each) == size
        assert len(set(each.values())) == 1
    assert joined[123].source == joined[123].source
    assert f"{share:.1%} of the draws: 35 of few" in joined.describe()


@pytest.mark.parametrize("weights", [(1,), (1, 0), (1, -1), (1, float("nan")), (1, float("inf"))])
def test_weights_that_are_none(weights: tuple[float, ...]) -> None:
    with pytest.raises(ParameterError, match="object weights: expected 2 positive numbers, got"):
        JoinedObjects([Numbered("a", 1), Numbered("b", 2)], weights)


def test_without_weights_each_object_is_there_once() -> None:
    joined = JoinedObjects([Numbered("a", 2), Numbered("b", 3)])
    assert [joined[i].source for i in range(5)] == ["a 0", "a 1", "b 0", "b 1", "b 2"]

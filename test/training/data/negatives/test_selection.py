# SPDX-License-Identifier: Apache-2.0
"""What is selected, against a reference that decodes everything; in one process or several."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle
from scipy import ndimage

from anomaly_seg_ros.errors import TrainingError
from anomaly_seg_ros.taxonomy import load_taxonomy
from training.data.negatives import CocoObjects, KnownClasses, selection
from training.data.negatives.coco_file import CocoFile

# pycocotools 2.0.11 under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class Reference:
    """The documented rules with their default numbers, on whole images, without shortcuts."""

    def __init__(self, path: Path, known: str) -> None:
        content = json.loads(path.read_text())
        self.classes = KnownClasses.load(load_taxonomy(), "coco")
        self.known = known
        self.names = {x["id"]: x["name"] for x in content["categories"]}
        self.dropped: Counter[str] = Counter()
        self.kept = []
        for image in sorted(content["images"], key=lambda x: x["id"]):
            entries = [x for x in content["annotations"] if x["image_id"] == image["id"]]
            self.select(image, sorted(entries, key=lambda x: x["id"]))

    def select(self, image: dict, entries: list[dict]) -> None:
        size = image["height"], image["width"]
        masks = [self.mask(x["segmentation"], size) for x in entries]
        for k, entry in enumerate(entries):
            target = self.classes.target(self.names[entry["category_id"]])
            if target == "unclear":
                self.dropped["unclear class"] += 1
            elif (target == "unknown") == (self.known == "only"):
                self.dropped["unknown class" if target == "unknown" else "known class"] += 1
            elif rule := self.rule(entry, masks[k], masks[:k] + masks[k + 1 :]):
                self.dropped[rule] += 1
            else:
                category = self.names[entry["category_id"]] if target == "unknown" else target
                self.kept.append((image["file_name"], entry["id"], category, masks[k]))

    @staticmethod
    def mask(segmentation: list | dict, size: tuple[int, int]) -> np.ndarray:
        codes = rle.frPyObjects(segmentation, *size)
        return rle.decode(rle.merge(codes) if isinstance(codes, list) else codes).astype(bool)

    @classmethod
    def rule(cls, entry: dict, mask: np.ndarray, others: list[np.ndarray]) -> str:
        if entry["iscrowd"]:
            return "crowd"
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if mask.sum() < 200 or min(np.ptp(rows), np.ptp(columns)) + 1 < 10:
            return "too small"
        if cls.inside(mask, 2) < mask.sum():
            return "cut off by the border"
        padded = np.pad(mask, 3)
        rim = ndimage.binary_dilation(padded, np.ones((7, 7))) & ~padded
        covered = np.zeros_like(mask)
        box = rows[0], columns[0], rows[-1], columns[-1]
        for other in others:
            r, c = np.flatnonzero(other.any(1)), np.flatnonzero(other.any(0))
            if r.size and not (
                r[0] <= box[0] and c[0] <= box[1] and r[-1] >= box[2] and c[-1] >= box[3]
            ):
                covered |= other
        if (np.pad(covered, 3) & rim).sum() > 0.2 * rim.sum():
            return "occluded"
        filled = ndimage.binary_fill_holes(mask)
        if 1 - mask.sum() / filled.sum() > 0.05:
            return "holes"
        parts, _ = ndimage.label(mask, np.ones((3, 3)))
        areas = np.bincount(parts.ravel())[1:]
        return "in pieces" if (areas > 0.02 * areas.sum()).sum() > 1 else ""

    @staticmethod
    def inside(mask: np.ndarray, border: int) -> int:
        return mask[border:-border, border:-border].sum()


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("split", ["train2017", "val2017"])
@pytest.mark.parametrize("known", ["exclude", "only"])
def test_the_selection_is_that_of_the_rules(shared_data: Path, split: str, known: str) -> None:
    expected = Reference(shared_data / "coco" / "annotations" / f"instances_{split}.json", known)
    source = CocoObjects(shared_data / "coco", split, known)
    assert source.dropped == expected.dropped
    assert len(source) == len(expected.kept)
    index = source.index
    for i, (path, identity, category, mask) in enumerate(expected.kept):
        assert index.paths[index.image[i]] == path
        assert index.identities[i] == str(identity)
        assert source.categories[i] == category
        top, left, height, width = index.box[i]
        found = np.zeros_like(mask)
        found[top : top + height, left : left + width] = index.mask(i)
        np.testing.assert_array_equal(found, mask)


def same_index(one: CocoObjects, other: CocoObjects) -> None:
    assert one.index._arrays.keys() == other.index._arrays.keys()
    for name, values in one.index._arrays.items():
        assert values.dtype == other.index._arrays[name].dtype
        np.testing.assert_array_equal(values, other.index._arrays[name])


@pytest.fixture
def shared_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two images for each of two processes at a time, and no index of an earlier run."""
    monkeypatch.setenv("ANOMALY_SEG_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(selection, "_SHARE", 2)
    monkeypatch.setattr(selection, "_FEW", 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})


@pytest.fixture
def many_images(tiny_coco: Path) -> Path:
    """Nine images, the last of which has a damaged annotation."""
    path = tiny_coco / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    first = content["images"][0]
    for i in range(3, 10):
        cv2.imwrite(str(tiny_coco / "train2017" / f"{i}.png"), np.zeros((60, 80, 3), np.uint8))
        content["images"].append({**first, "id": i, "file_name": f"{i}.png"})
        content["annotations"].append({**content["annotations"][0], "id": 10**i, "image_id": i})
    content["annotations"][-1]["segmentation"] = []
    content["annotations"][-2]["image_id"] = 77
    path.write_text(json.dumps(content))
    return tiny_coco


def test_processes_select_the_same(
    many_images: Path, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture
) -> None:
    alone = CocoObjects(many_images)
    assert "processes" not in capfd.readouterr().out
    request.getfixturevalue("shared_out")
    same_index(CocoObjects(many_images), alone)
    assert "9 images, in 2 processes" in capfd.readouterr().out
    assert alone.dropped["of no image"] == alone.dropped["without a segmentation"] == 1


def test_a_process_that_dies(
    many_images: Path, shared_out: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CocoFile, "read", lambda self, index: os._exit(9))
    with pytest.raises(TrainingError, match="a process that selects objects died"):
        CocoObjects(many_images)


def test_what_only_the_slow_reader_accepts(many_images: Path) -> None:
    """A file with one odd value is read as if it were none of the fast reader's business."""
    fast = CocoObjects(many_images)
    path = many_images / "annotations" / "instances_train2017.json"
    path.write_text(path.read_text()[:-1] + ', "odd": NaN}')
    same_index(CocoObjects(many_images), fast)

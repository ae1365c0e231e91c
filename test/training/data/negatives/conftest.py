# SPDX-License-Identifier: Apache-2.0
"""A COCO of a few small images, written for a test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

CATEGORIES = ("person", "dog", "train", "stop sign", "cup", "dining table", "potted plant")
HEIGHT, WIDTH = 60, 80

# Category, (top, left, bottom, right) of a rectangle, by image.
Rectangles = dict[str, list[tuple[str, tuple[int, int, int, int]]]]

RECTANGLES: Rectangles = {
    "one.png": [
        ("dog", (10, 10, 40, 30)),
        ("person", (10, 50, 40, 70)),
        ("train", (45, 5, 57, 60)),
    ],
    "two.png": [
        ("dining table", (20, 10, 50, 70)),
        ("cup", (25, 30, 45, 50)),
        ("stop sign", (2, 2, 17, 17)),
        ("potted plant", (2, 30, 17, 45)),
    ],
}


def write_coco(root: Path, rectangles: Rectangles, split: str = "train2017") -> Path:
    """Writes images of noise and an annotation file with polygons; returns the latter."""
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for image_id, (name, objects) in enumerate(rectangles.items(), start=1):
        pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        cv2.imwrite(str(root / split / name), pixels)
        images.append({"id": image_id, "file_name": name, "height": HEIGHT, "width": WIDTH})
        for category, (top, left, bottom, right) in objects:
            annotations.append(
                {
                    "id": 100 + len(annotations),
                    "image_id": image_id,
                    "category_id": CATEGORIES.index(category) + 1,
                    "iscrowd": 0,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
                }
            )
    categories = [{"id": k, "name": name} for k, name in enumerate(CATEGORIES, start=1)]
    path = root / "annotations" / f"instances_{split}.json"
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return path


@pytest.fixture
def tiny_coco(tmp_path: Path) -> Path:
    """Root of a COCO with a dog and a cup on a table that are unknown to Cityscapes."""
    write_coco(tmp_path, RECTANGLES)
    return tmp_path


@pytest.fixture
def edit_annotations(tiny_coco: Path) -> Callable[[Callable[[dict], None]], None]:
    """Applies a change to the annotation file."""

    def edit(change: Callable[[dict], None]) -> None:
        path = tiny_coco / "annotations" / "instances_train2017.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return edit

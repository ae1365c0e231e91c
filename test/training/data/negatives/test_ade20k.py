# SPDX-License-Identifier: Apache-2.0
"""The full ADE20K in miniature, written with the fields and mask values of the 2021 release."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomaly_seg_ros.errors import DatasetError, ImageError
from training.data.negatives import Ade20kObjects, Quality

# pycocotools 2.0.11 under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIZE = (60, 80)
NAME = "ADE_train_00000001"


def amodal(seen: tuple[int, int, int, int], hidden_columns: int = 0) -> np.ndarray:
    """A rectangle (top, left, bottom, right) whose last columns are hidden."""
    top, left, bottom, right = seen
    mask = np.zeros(SIZE, np.uint8)
    mask[top:bottom, left:right] = 255
    mask[top:bottom, right - hidden_columns : right] = 128 if hidden_columns else 255
    return mask


# Name, mask, "occluded", part level.
OBJECTS = [
    ("armchair", amodal((5, 5, 30, 30)), "no", 0),
    ("armchair", amodal((5, 35, 25, 65), hidden_columns=3), [], 0),  # a tenth hidden
    ("lamp", amodal((35, 5, 55, 25), hidden_columns=1), "no", 0),  # a twentieth
    ("car, auto, automobile, machine, motorcar", amodal((35, 30, 55, 55)), "no", 0),
    ("wheel", amodal((35, 30, 55, 50)), "no", 1),
    ("box", amodal((30, 58, 55, 78)), "yes", 0),
    ("signboard, sign", amodal((5, 66, 25, 78)), [], 0),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "images" / "ADE" / "training" / "urban" / "street"
    (folder / NAME).mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    cv2.imwrite(str(folder / f"{NAME}.jpg"), pixels)
    entries = []
    for k, (name, mask, occluded, level) in enumerate(OBJECTS):
        relative = f"{NAME}/instance_{k:03d}_{NAME}.png"
        cv2.imwrite(str(folder / relative), mask)
        parts = {"hasparts": [], "ispartof": [], "part_level": level}
        entries.append(
            {
                "id": k,
                "name": name,
                "raw_name": name.split(",")[0],
                "occluded": occluded,
                "crop": "0",
                "parts": parts,
                "instance_mask": relative,
            }
        )
    content = {"annotation": {"imsize": [*SIZE, 3], "object": entries}}
    (folder / f"{NAME}.json").write_text(json.dumps(content))
    return tmp_path


@pytest.fixture
def edit(root: Path) -> Callable[[Callable[[dict], None]], None]:
    def apply(change: Callable[[dict], None]) -> None:
        path = next(root.rglob("*.json"))
        content = json.loads(path.read_text())
        change(content["annotation"])
        path.write_text(json.dumps(content))

    return apply


def identities(source: Ade20kObjects) -> list[str]:
    return [source[i].source for i in range(len(source))]


def test_whole_unknown_objects(root: Path) -> None:
    source = Ade20kObjects(root)
    assert identities(source) == [f"ade20k {NAME} #0", f"ade20k {NAME} #2"]
    # Only what is seen is cut out.
    assert [source[i].mask.shape for i in range(2)] == [(25, 25), (20, 19)]
    text = source.describe()
    assert "2 occluded" in text
    assert "1 known class" in text
    assert "1 unclear class" in text


def test_the_share_that_may_be_hidden(root: Path) -> None:
    more = identities(Ade20kObjects(root, quality=Quality(max_hidden=0.1)))
    assert f"ade20k {NAME} #1" in more
    assert f"ade20k {NAME} #5" not in more
    fewer = identities(Ade20kObjects(root, quality=Quality(max_hidden=0)))
    assert fewer == [f"ade20k {NAME} #0"]


def test_known_objects(root: Path) -> None:
    source = Ade20kObjects(root, known="only")
    assert [source[i].category for i in range(len(source))] == ["car"]


def test_names_that_are_not_utf8(root: Path) -> None:
    path = next(root.rglob("*.json"))
    path.write_bytes(path.read_bytes().replace(b'"raw_name": "lamp"', b'"raw_name": "l\xe4mp"'))
    assert len(Ade20kObjects(root)) == 2


def test_missing_files(root: Path) -> None:
    with pytest.raises(DatasetError, match=r"validation: no annotations; expected ROOT/images"):
        Ade20kObjects(root, "validation")
    image = next(root.rglob("*.jpg"))
    image.rename(root / "elsewhere.jpg")
    with pytest.raises(
        DatasetError, match=rf"1 of 1 images with objects are missing.*{NAME}\.jpg"
    ):
        Ade20kObjects(root)
    (root / "elsewhere.jpg").rename(image)
    next(root.rglob("instance_002*")).unlink()
    with pytest.raises(ImageError, match=r"instance_002_.*: no such file"):
        Ade20kObjects(root)


OTHER = np.full((60, 81), 255, np.uint8)
BINARY = np.minimum(OBJECTS[2][1], 1)


@pytest.mark.parametrize(
    ("mask", "rule"),
    [
        (OTHER, "with a segmentation of another size"),
        (BINARY, "with a damaged segmentation"),
        (np.zeros(SIZE, np.uint8), "too small"),
    ],
)
def test_an_unusable_mask_costs_its_object(root: Path, mask: np.ndarray, rule: str) -> None:
    cv2.imwrite(str(next(root.rglob("instance_002*"))), mask)
    source = Ade20kObjects(root)
    assert identities(source) == [f"ade20k {NAME} #0"]
    assert f"1 {rule}" in source.describe()


@pytest.mark.parametrize(
    ("change", "rule", "name"),
    [
        (lambda x: x.pop("instance_mask"), "without a segmentation", "jpg #2"),
        (lambda x: x.update(instance_mask=7), "without a segmentation", "jpg #2"),
        (lambda x: x.pop("name"), "incomplete", "json #2"),
        (lambda x: x.pop("parts"), "incomplete", "json #2"),
        (lambda x: x.update(parts={"part_level": "top"}), "incomplete", "json #2"),
    ],
)
def test_an_unusable_entry_costs_its_object(
    root: Path, edit: Callable, change: Callable, rule: str, name: str
) -> None:
    edit(lambda annotation: change(annotation["object"][2]))
    source = Ade20kObjects(root)
    assert identities(source) == [f"ade20k {NAME} #0"]
    text = source.describe()
    assert f"1 {rule}" in text
    assert re.search(rf"unusable, {rule}: .*{NAME}\.{name}", text)


def test_an_image_of_another_size(root: Path) -> None:
    source = Ade20kObjects(root)
    cv2.imwrite(str(next(root.rglob("*.jpg"))), np.zeros((61, 80, 3), np.uint8))
    with pytest.raises(ImageError, match=r"80x61 pixels, but its annotation is for 80x60"):
        source[0]


@pytest.mark.parametrize(
    ("content", "message"), [("{", "not JSON"), ('{"annotation": {}}', "not in ADE20K's format")]
)
def test_damaged_annotations(root: Path, content: str, message: str) -> None:
    next(root.rglob("*.json")).write_text(content)
    with pytest.raises(DatasetError, match=rf"{NAME}\.json: {message}"):
        Ade20kObjects(root)

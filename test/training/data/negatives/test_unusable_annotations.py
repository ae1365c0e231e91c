# SPDX-License-Identifier: Apache-2.0
"""One bad annotation of COCO costs its object, not the file, and is counted and named."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as rle

from anomaly_seg_ros.errors import DatasetError
from training.data.negatives import CocoObjects
from training.data.negatives.annotations import read_annotations
from training.data.negatives.segmentation import UnusableMaskError, run_lengths

# pycocotools 2.0.11 under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Edit = Callable[[Callable[[dict], None]], None]
SIZE = (60, 80)
PIXELS = SIZE[0] * SIZE[1]
SQUARE = [10, 10, 30, 10, 30, 40, 10, 40]
INF, NAN = float("inf"), float("nan")

ABSENT = "without a segmentation"
DAMAGED = "with a damaged segmentation"
OTHER_SIZE = "with a segmentation of another size"
OUTSIDE = "outside the image"


def decode_mask(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    return run_lengths(segmentation, size).cut((0, 0, *size)).view(np.uint8)


UNUSABLE = [
    (None, ABSENT),
    ([], ABSENT),
    ([[]], ABSENT),
    ({}, ABSENT),
    ("", ABSENT),
    ("x", DAMAGED),
    (7, DAMAGED),
    (SQUARE, DAMAGED),
    ([[1, 2]], DAMAGED),
    ([[1, 2, 3, 4]], DAMAGED),
    ([SQUARE[:7]], DAMAGED),
    ([[*SQUARE[:7], INF]], DAMAGED),
    ([[*SQUARE[:7], -INF]], DAMAGED),
    ([[*SQUARE[:7], NAN]], DAMAGED),
    ([[*SQUARE[:7], 1e300]], DAMAGED),
    ([[*SQUARE[:7], 10**400]], DAMAGED),
    ([[*SQUARE[:7], 10**9]], DAMAGED),
    ([SQUARE, [NAN] * 6], DAMAGED),
    ([["a"] * 6], DAMAGED),
    ([[None] * 6], DAMAGED),
    ([[[1, 2], [3, 4], [5, 6]]], DAMAGED),
    ([[x + 100 for x in SQUARE]], OUTSIDE),
    ([[x - 50 for x in SQUARE]], OUTSIDE),
    ({"counts": [4, 5]}, DAMAGED),
    ({"size": 5, "counts": [4, 5]}, DAMAGED),
    ({"size": [60, 80, 3], "counts": [PIXELS]}, DAMAGED),
    ({"size": [80, 60], "counts": [PIXELS]}, OTHER_SIZE),
    ({"size": [60, 80]}, DAMAGED),
    ({"size": [60, 80], "counts": None}, DAMAGED),
    ({"size": [60, 80], "counts": []}, DAMAGED),
    ({"size": [60, 80], "counts": [10, 500]}, DAMAGED),
    ({"size": [60, 80], "counts": [10, PIXELS]}, DAMAGED),
    ({"size": [60, 80], "counts": [-1, PIXELS + 1]}, DAMAGED),
    ({"size": [60, 80], "counts": [0.5, PIXELS - 0.5]}, DAMAGED),
    ({"size": [60, 80], "counts": [2**63, 2**63, PIXELS]}, DAMAGED),
    ({"size": [60, 80], "counts": [INF]}, DAMAGED),
    ({"size": [60, 80], "counts": "0"}, DAMAGED),
    ({"size": [60, 80], "counts": "PPP"}, DAMAGED),
    ({"size": [60, 80], "counts": "o" * 100}, DAMAGED),
    ({"size": [60, 80], "counts": "\u00e9\0"}, DAMAGED),
]


@pytest.mark.parametrize(("mask", "rule"), UNUSABLE)
def test_masks_that_cannot_be_used(
    tiny_coco: Path, edit_annotations: Edit, mask: object, rule: str
) -> None:
    edit_annotations(lambda content: content["annotations"][0].update(segmentation=mask))
    source = CocoObjects(tiny_coco)
    assert [source[i].category for i in range(len(source))] == ["dining table", "cup"]
    assert source.dropped[rule] == 1
    text = source.describe()
    assert f"1 {rule}" in text
    assert f"unusable, {rule}: one.png #100" in text


@pytest.mark.parametrize(("mask", "rule"), UNUSABLE)
def test_a_file_of_nothing_else_says_so(
    tiny_coco: Path, edit_annotations: Edit, mask: object, rule: str
) -> None:
    def spoil(content: dict) -> None:
        for annotation in content["annotations"]:
            annotation["segmentation"] = mask

    edit_annotations(spoil)
    with pytest.raises(DatasetError, match=rf"no usable object left \(.*3 {rule}"):
        CocoObjects(tiny_coco)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda x: x.pop("segmentation"), ABSENT),
        (lambda x: x.update(image_id=77), "of no image"),
        (lambda x: x.update(image_id=[1]), "incomplete"),
        (lambda x: x.update(category_id=77), "of no category"),
        (lambda x: x.pop("category_id"), "incomplete"),
        (lambda x: x.pop("image_id"), "incomplete"),
        (lambda x: x.pop("id"), "incomplete"),
    ],
)
def test_an_annotation_that_belongs_nowhere(
    tiny_coco: Path, edit_annotations: Edit, change: Callable, rule: str
) -> None:
    edit_annotations(lambda content: change(content["annotations"][0]))
    source = CocoObjects(tiny_coco)
    assert [source[i].category for i in range(len(source))] == ["dining table", "cup"]
    assert f"1 {rule}" in source.describe()


def test_an_annotation_that_is_none(tiny_coco: Path, edit_annotations: Edit) -> None:
    edit_annotations(lambda content: content["annotations"].extend([None, "x", []]))
    assert CocoObjects(tiny_coco).dropped["incomplete"] == 3


def test_ids_of_merged_files(tiny_coco: Path, edit_annotations: Edit) -> None:
    """Whose picture, or whose name, the annotation means cannot be told."""
    edit_annotations(
        lambda content: content["images"].append({**content["images"][0], "file_name": "x.png"})
    )
    source = CocoObjects(tiny_coco)
    assert [source[i].category for i in range(len(source))] == ["dining table", "cup"]
    assert source.dropped["of an image id that stands twice"] == 3
    edit_annotations(lambda content: content["categories"].append({"id": 5, "name": "car"}))
    source = CocoObjects(tiny_coco)
    assert [source[i].category for i in range(len(source))] == ["dining table"]
    assert source.dropped["of a category id that stands twice"] == 1


def test_a_file_without_an_image_that_is_clear(tiny_coco: Path, edit_annotations: Edit) -> None:
    edit_annotations(
        lambda content: content.update(
            images=[{**x, "file_name": name} for x in content["images"] for name in "ab"]
        )
    )
    with pytest.raises(DatasetError, match=r"left \(7 of an image id that stands twice\)"):
        CocoObjects(tiny_coco)


def test_entries_that_are_merely_repeated(tiny_coco: Path, edit_annotations: Edit) -> None:
    before = CocoObjects(tiny_coco).describe()

    def repeat(content: dict) -> None:
        for part in ("images", "categories"):
            content[part] += content[part]

    edit_annotations(repeat)
    assert CocoObjects(tiny_coco).describe() == before


def test_an_unusable_neighbour_hides_nothing(tiny_coco: Path, edit_annotations: Edit) -> None:
    edit_annotations(lambda content: content["annotations"][1].update(segmentation=[]))
    source = CocoObjects(tiny_coco)
    assert source[0].category == "dog"
    assert ABSENT not in source.dropped  # a person, which nobody asked for
    assert CocoObjects(tiny_coco, known="only").dropped[ABSENT] == 1


def test_only_the_first_are_named(tiny_coco: Path, edit_annotations: Edit) -> None:
    def add(content: dict) -> None:
        dog = content["annotations"][0]
        content["annotations"] += [{**dog, "id": 1000 + i, "segmentation": []} for i in range(25)]

    edit_annotations(add)
    text = CocoObjects(tiny_coco).describe()
    assert "25 without a segmentation" in text
    assert "one.png #1009 and 15 more" in text
    assert "#1010" not in text
    assert CocoObjects(tiny_coco).describe() == text


def test_a_part_without_an_area_does_no_harm() -> None:
    whole = decode_mask([SQUARE], SIZE)
    assert whole.sum() == 600
    assert np.array_equal(decode_mask([SQUARE, [1, 2], []], SIZE), whole)
    assert np.array_equal(decode_mask([[1, 2, 3, 4], SQUARE], SIZE), whole)  # no box


@pytest.mark.parametrize("fill", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (7, 1), (1, 9), (60, 80)])
def test_run_lengths_are_decoded_as_pycocotools_does(size: tuple[int, int], fill: float) -> None:
    rng = np.random.default_rng(3)
    mask = (rng.random(size) < fill).astype(np.uint8)
    code = rle.encode(np.asfortranarray(mask))["counts"].decode()
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *([0] if flat[0] else []), *ends, flat.size]).tolist()
    for segmentation in ({"size": [*size], "counts": x} for x in (code, counts)):
        found = decode_mask(segmentation, size)
        assert found.dtype == np.uint8
        assert np.array_equal(found, mask)


def test_codes_that_break_off_anywhere() -> None:
    mask = (np.random.default_rng(4).random(SIZE) < 0.3).astype(np.uint8)
    code = rle.encode(np.asfortranarray(mask))["counts"].decode()
    for end in range(len(code)):
        with pytest.raises(UnusableMaskError):
            decode_mask({"size": [*SIZE], "counts": code[:end]}, SIZE)


@pytest.mark.data
@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_real_masks_are_those_of_pycocotools(shared_data: Path, split: str) -> None:
    path = shared_data / "coco" / "annotations" / f"instances_{split}.json"
    content = json.loads(path.read_text())
    sizes = {x["id"]: (x["height"], x["width"]) for x in content["images"]}
    crowds = 0
    for annotation in content["annotations"]:
        segmentation, size = annotation["segmentation"], sizes[annotation["image_id"]]
        if isinstance(segmentation, dict):
            crowds += 1
            code = rle.frPyObjects(segmentation, *size)
        else:
            code = rle.merge(rle.frPyObjects(segmentation, *size))
        assert np.array_equal(decode_mask(segmentation, size), rle.decode(code))
    assert crowds


@pytest.mark.parametrize("name", ["exif_3_annotated_as_stored", "exif_6_annotated_as_stored"])
def test_objects_of_pictures_with_an_orientation(shared_cases: Path, name: str) -> None:
    """The elephant is a red block on another ground."""
    (found,) = CocoObjects(shared_cases / "coco" / name)
    inner = found.image[2:-2, 2:-2]
    assert found.category == "elephant"
    assert (inner[..., 0] > 150).all()
    assert (inner[..., 1:] < 100).all()


def test_a_box_among_the_masks(shared_cases: Path) -> None:
    source = CocoObjects(shared_cases / "coco" / "one_empty_segmentation")
    assert source.categories == ["elephant"]
    assert f"unusable, {ABSENT}: a.jpg #11" in source.describe()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON .*cut short"),
        (b'{"a": [1, 2', "not JSON .*cut short"),
        (b'{"a": "tex', "not JSON .*cut short"),
        (b'{"a" 1}', r"not JSON \(.*column 6 \(char 5\)\)$"),
        (gzip.compress(b"{}", mtime=0), "a packed file"),
        (b"PK\x03\x04", "a packed file"),
        (b'{"a": "\xe4"}', "not JSON .*utf-8"),
        (b"[" * 10**5, "not JSON .nested too deeply"),
        (b"1" * 10**4, "not JSON"),
    ],
)
def test_faults(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"a\.json: {message}") as caught:
        read_annotations(path)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"b\.json: no such file"):
        read_annotations(tmp_path / "b.json")
    with pytest.raises(DatasetError, match="Is a directory"):
        read_annotations(tmp_path)


def test_what_editors_write(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n')  # a byte order mark
    assert read_annotations(path) == {"a": 1}
    path.write_bytes(b'{"a": "\xe4"}')
    assert read_annotations(path, lenient=True) == {"a": "\ufffd"}


def test_the_panoptic_annotations_of_coco(tiny_coco: Path) -> None:
    path = tiny_coco / "annotations" / "instances_train2017.json"
    entry = '{"segments_info": [], "file_name": "a.png", "image_id": 1}'
    path.write_text(f'{{"images": [1], "categories": [1], "annotations": [{entry}]}}')
    with pytest.raises(DatasetError, match="panoptic format; the instances are needed"):
        CocoObjects(tiny_coco)
